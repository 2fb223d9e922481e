"""The two transports of `rpc`: web3's providers, without web3's middleware.

Importing this module imports web3 (0.7 s), so `rpc` does it only when it connects. Retries and back-off are not here: a lost call
is lost, and who asked decides.
"""

import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import aiohttp
import web3.exceptions
import websockets.exceptions
from web3.providers.persistent import WebSocketProvider
from web3.providers.rpc import AsyncHTTPProvider
from web3.types import RPCEndpoint

FAILURES = (
    OSError,
    TimeoutError,
    EOFError,
    aiohttp.ClientError,
    websockets.exceptions.WebSocketException,
    web3.exceptions.Web3Exception,
    ValueError,
)
_MAX_MESSAGE = 64 << 20  # a page of logs


class Transport(Protocol):
    """One connection to a node."""

    async def open(self) -> None: ...
    async def exchange(self, method: str, params: Sequence[Any]) -> Mapping[str, Any]:
        """Send a request and return its JSON-RPC answer. Raises one of FAILURES."""

    async def close(self) -> None: ...


def make(url: str, *, timeout: float) -> Transport:
    """Choose the transport by the URL's scheme. `timeout` (seconds) bounds a single request."""
    return _WebSocket(url) if url.startswith("ws") else _Http(url, timeout)


class _Http:
    """web3's provider for the encoding, a session of our own for the wire.

    The provider's session manager takes a lock of the whole process in a thread for each request. A call that is cancelled or times out
    meanwhile leaves that lock taken, and no call of any provider in the process ever returns again. It also connects anew for each call.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._provider = AsyncHTTPProvider(url)
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(timeout=self._timeout, headers=self._provider.get_request_headers(), raise_for_status=True)

    async def exchange(self, method: str, params: Sequence[Any]) -> Mapping[str, Any]:
        if self._session is None or self._session.closed:
            raise ConnectionError("the session is not open")
        request = self._provider.encode_rpc_request(RPCEndpoint(method), params)
        async with self._session.post(self._url, data=request) as answer:
            return cast(Mapping[str, Any], self._provider.decode_rpc_response(await answer.read()))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


class _WebSocket:
    """web3's provider for the socket, our own wait for answers.

    The provider's `make_request` spins in the event loop until the answer is there: a node that hangs would cost a whole core for
    as long as it hangs.
    """

    def __init__(self, url: str) -> None:
        self._provider = WebSocketProvider(url, websocket_kwargs={"max_size": _MAX_MESSAGE}, max_connection_retries=1)
        self._waiting: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        self._reader: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self._provider._provider_specific_connect()  # `connect` would start the provider's own listener
        self._reader = asyncio.create_task(self._read(), name="chain.websocket")

    async def exchange(self, method: str, params: Sequence[Any]) -> Mapping[str, Any]:
        if self._reader is None or self._reader.done():
            raise ConnectionError("the connection is closed")
        request = self._provider.form_request(RPCEndpoint(method), params)
        number = int(cast(int, request["id"]))
        answer: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            await self._provider.socket_send(json.dumps(request).encode())
            return await answer
        finally:
            del self._waiting[number]

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader
            await self._provider._provider_specific_disconnect()

    async def _read(self) -> None:
        cause: Exception = ConnectionError("the connection is closed")
        try:
            while True:
                answer = await self._provider.socket_recv()
                waiting = self._waiting.get(int(cast(int, answer.get("id", -1))))
                if waiting is not None and not waiting.done():
                    waiting.set_result(cast(Mapping[str, Any], answer))
        except FAILURES as error:
            cause = error
        finally:
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(ConnectionError(str(cause)))
