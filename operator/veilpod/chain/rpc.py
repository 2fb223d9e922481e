"""JSON-RPC to one EVM node: every call bounded, every failure ChainUnavailable, nothing believed before the node was checked.

The transports are web3's providers; HTTP or WebSocket by the URL's scheme. After any failure of the transport the `check` given
at construction runs again before the next call: behind a URL there may be another node now. What an answer means is for `reader`,
`sender` and `follower`.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from veilpod.errors import ChainUnavailable, InvalidInput

if TYPE_CHECKING:
    from veilpod.chain.transport import Transport
    from veilpod.chain.witness import Witness

log = logging.getLogger(__name__)

CALL_TIMEOUT = 10.0
CONNECT_TIMEOUT = 5.0
IN_FLIGHT = 16


class RpcError(Exception):
    """The node answered with an error. Who called knows whether it is a refusal; unhandled it means ChainUnavailable."""

    def __init__(self, method: str, code: int, message: str, data: bytes | None) -> None:
        super().__init__(f"{method}: {message} ({code})")
        self.code = code
        self.message = message
        self.data = data  # what a contract reverted with, when the node says so


class Behind(ChainUnavailable):
    """The second endpoint has not come as far as the first: nobody contradicts, nobody confirms."""


class Rpc:
    """One node. Safe for concurrent use in one event loop."""

    def __init__(self, url: str, *, check: Callable[["Rpc"], Awaitable[None]] | None = None, witness: "Witness | None" = None) -> None:
        if not url.startswith(("http://", "https://", "ws://", "wss://")):
            raise InvalidInput("InvalidRpcUrl", "the RPC URL must begin with http://, https://, ws:// or wss://")
        self._url = url
        self._check = check
        self.witness = witness
        self._transport: Transport | None = None
        self._connecting = asyncio.Lock()
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self.reachable = False

    async def call(self, method: str, *params: Any) -> Any:
        """Call and return the `result`.

        Raises RpcError for an error answer, ChainUnavailable when there is no answer that can be believed.
        """
        transport = await self._ready()
        async with self._slots:
            return await self._exchange(transport, method, params)

    async def agreed(self, method: str, *params: Any) -> Any:
        """Call, and believe only what the second endpoint, when there is one, says too: for what money is decided on."""
        answer = await self.call(method, *params)
        if self.witness is not None:
            await self.witness.confirm(method, params, answer)
        return answer

    async def ask(self, method: str, *params: Any) -> Any:
        """Call where no refusal is expected: an error answer is ChainUnavailable too."""
        try:
            return await self.call(method, *params)
        except RpcError as error:
            raise ChainUnavailable(f"the node refused {error}") from error

    async def distrust(self) -> None:
        """Check the node again now. Raises what the check raises."""
        await self._drop(self._transport)
        await self._ready()

    async def quantity(self, method: str, *params: Any) -> int:
        """Ask for a number."""
        answer = await self.ask(method, *params)
        try:
            return int(answer, 16)
        except (TypeError, ValueError) as error:
            raise ChainUnavailable(f"the answer to {method} is no number") from error

    async def close(self) -> None:
        """Close the connections. A later call opens new ones."""
        if self.witness is not None:
            await self.witness.close()
        await self._drop(self._transport)

    async def _ready(self) -> "Transport":
        if self._transport is not None:
            return self._transport
        async with self._connecting:
            if self._transport is None:
                self._transport = await self._connect()
        return self._transport

    async def _connect(self) -> "Transport":
        from veilpod.chain import transport as transports  # web3 takes 0.7 s to import: only who speaks to a chain pays for it

        transport = transports.make(self._url, timeout=CALL_TIMEOUT)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await transport.open()
            if self._check is not None:
                await self._check(_Unchecked(self, transport))
        except BaseException as error:
            await _close(transport)
            if isinstance(error, transports.FAILURES):
                raise self._lost("the chain's RPC cannot be reached", error) from error
            raise
        if not self.reachable:
            log.info("chain.reachable")
        self.reachable = True
        return transport

    async def _exchange(self, transport: "Transport", method: str, params: Sequence[Any]) -> Any:
        from veilpod.chain import transport as transports

        try:
            async with asyncio.timeout(CALL_TIMEOUT):
                answer = await transport.exchange(method, params)
        except transports.FAILURES as error:
            await self._drop(transport)
            raise self._lost(f"the chain's RPC did not answer {method}", error) from error
        if answer.get("error") is not None:
            raise _error(method, answer["error"])
        if "result" not in answer:
            raise ChainUnavailable(f"the answer to {method} has no result")
        return answer["result"]

    def _lost(self, message: str, error: BaseException) -> ChainUnavailable:
        if self.reachable:
            log.warning("chain.unreachable", extra={"cause": type(error).__name__})
        self.reachable = False
        return ChainUnavailable(f"{message}: {type(error).__name__}")

    async def _drop(self, transport: "Transport | None") -> None:
        if transport is not None:
            if self._transport is transport:
                self._transport = None
            await _close(transport)


class _Unchecked(Rpc):
    """What the check itself calls through: the same node, before it is believed."""

    def __init__(self, parent: Rpc, transport: "Transport") -> None:
        super().__init__(parent._url)
        self._transport = transport
        self.reachable = parent.reachable

    async def _drop(self, transport: "Transport | None") -> None:
        """The parent closes it."""


async def _close(transport: "Transport") -> None:
    with contextlib.suppress(Exception):  # it is broken or unwanted: how it ends changes nothing
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await transport.close()


def _error(method: str, error: Any) -> RpcError:
    if not isinstance(error, dict):
        return RpcError(method, 0, str(error), None)
    data = error.get("data")
    if isinstance(data, dict):  # some nodes wrap it
        data = data.get("data") or data.get("result")
    raw = None
    if isinstance(data, str) and data.startswith("0x"):
        with contextlib.suppress(ValueError):
            raw = bytes.fromhex(data[2:])
    code = error.get("code")
    return RpcError(method, code if isinstance(code, int) else 0, str(error.get("message", "")), raw)
