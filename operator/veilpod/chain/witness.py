"""A second endpoint that must say the same: against a provider that leaves something out.

What money is decided on (blocks at depth, views of tasks, channels and stakes, balances, logs) is asked there too, see `Rpc.agreed`.
Another answer, or blocks that our endpoint does not show, make the chain unavailable, loudly: nobody here knows which of the two lies.
Silence of the second endpoint does not: an operator that stops looking loses what a lie could take, so it goes on with one and says so.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from veilpod.chain.heads import parse_header
from veilpod.chain.rpc import Behind, Rpc, RpcError
from veilpod.errors import ChainUnavailable

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
WITHHELD_SECONDS = 60  # between the two newest blocks, by their own clocks
STUCK_SECONDS = 300.0  # without a new block the second endpoint is cut off, not a witness against ours
TOLD_SECONDS = 120.0  # how long a disagreement stands in the readiness probe
_SILENT = object()


class Witness:
    """The second endpoint. `rpc` is its own connection; `clock` is monotonic, in seconds."""

    def __init__(self, rpc: Rpc, *, clock: Callable[[], float]) -> None:
        self._rpc = rpc
        self._clock = clock
        self._looked_at = float("-inf")
        self._newest = ""
        self._heard = True
        self._heard_at = clock()
        self._moved_at = clock()
        self._disagreed: tuple[float, str] | None = None
        self.disagreements = 0

    @property
    def disagreement(self) -> str | None:
        """What the two endpoints differ in, while it is recent."""
        if self._disagreed is None or self._clock() - self._disagreed[0] > TOLD_SECONDS:
            return None
        return self._disagreed[1]

    @property
    def silence(self) -> float:
        """Seconds since the second endpoint last answered."""
        return self._clock() - self._heard_at

    async def look(self, timestamp: int) -> None:
        """Compare the newest blocks, from time to time. `timestamp` is ours. Raises ChainUnavailable when blocks are kept from us."""
        if self._clock() - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = self._clock()
        latest = await self._ask("eth_getBlockByNumber", ("latest", False))
        if latest is _SILENT or latest is None:
            return
        theirs = parse_header(latest)
        if theirs.hash != self._newest:
            self._newest, self._moved_at = theirs.hash, self._clock()
        if theirs.timestamp - timestamp > WITHHELD_SECONDS:
            self._looked_at = float("-inf")  # look again and again until they are shown
            self._disagree("the RPC endpoint does not show the newest blocks and the second one does")

    async def confirm(self, method: str, params: Sequence[Any], answer: Any) -> None:
        """Ask the second endpoint the same.

        Raises Behind when it has not come as far, ChainUnavailable when it says something else, RpcError when it wants fewer logs at once.
        """
        theirs = await self._ask(method, params)
        if theirs is _SILENT:
            return
        if theirs is None and answer is not None:
            if self._clock() - self._moved_at > STUCK_SECONDS:
                return
            raise Behind(f"the second RPC endpoint has no answer to {method} for this block (yet)")
        if _gist(method, theirs) != _gist(method, answer):
            self._disagree(f"the two RPC endpoints answer {method} differently")

    async def close(self) -> None:
        """Close its connection."""
        await self._rpc.close()

    async def _ask(self, method: str, params: Sequence[Any]) -> Any:
        try:
            answer = await self._rpc.call(method, *params)
        except RpcError:
            if method == "eth_getLogs":
                raise
            answer = None  # it answers, and knows no such block
        except ChainUnavailable:
            if self._heard:
                log.warning("chain.second_endpoint_silent")
            self._heard = False
            return _SILENT
        self._heard, self._heard_at = True, self._clock()
        return answer

    def _disagree(self, what: str) -> None:
        self.disagreements += 1
        if self.disagreement != what:
            log.error("chain.endpoints_disagree", extra={"cause": what})
        self._disagreed = self._clock(), what
        raise ChainUnavailable(f"{what}: one of them is wrong, and nothing is decided until they agree")


def _gist(method: str, answer: Any) -> Any:
    """What of an answer must be equal; nodes spell the rest as they like."""
    try:
        match method:
            case "eth_getBlockByNumber":
                return answer and answer["hash"]
            case "eth_getLogs":
                return {(entry["blockHash"], int(entry["logIndex"], 16), *entry["topics"], entry["data"]) for entry in answer}
            case _:
                return answer.lower()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ChainUnavailable(f"an answer to {method} cannot be read") from error
