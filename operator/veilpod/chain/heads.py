"""The chain's head and the confirmed block below it, followed by polling.

Subscriptions and filters die with the node that held them, so there are none. Everything that is read from the chain is read at
`confirmed`, `depth` blocks below the newest; `reorgs` counts how often a confirmed block turned out not to be final after all,
which empties every cache above. Logs are for `logs` and `follower`.
"""

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

from veilpod.chain.rpc import Behind, Rpc, RpcError
from veilpod.errors import ChainUnavailable, InvalidInput, VeilpodError

log = logging.getLogger(__name__)

_SOON = (0.05, 0.1, 0.2)  # seconds between the looks that follow a nudge
_LATE_SECONDS = 30.0  # in which the second endpoint may learn of a block before its silence about it counts


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What is used of a block's header."""

    number: int
    hash: str
    parent: str
    timestamp: int  # unix seconds
    base_fee: int  # wei

    @property
    def tag(self) -> dict[str, Any]:
        """How a call names this very block (EIP-1898): if it is gone, the call fails instead of meaning another block."""
        return {"blockHash": self.hash, "requireCanonical": True}


async def agreed_header(rpc: Rpc, block: int) -> Header | None:
    """Read a header that the second endpoint, when there is one, has too."""
    try:
        answer = await rpc.agreed("eth_getBlockByNumber", hex(block), False)
    except RpcError as error:
        raise ChainUnavailable(f"the node refused {error}") from error
    return None if answer is None else parse_header(answer)


async def header(rpc: Rpc, block: int | str) -> Header | None:
    """Read a header by number or tag. None: there is no such block (yet, or any more)."""
    answer = await rpc.ask("eth_getBlockByNumber", hex(block) if isinstance(block, int) else block, False)
    return None if answer is None else parse_header(answer)


def parse_header(answer: Mapping[str, Any]) -> Header:
    """Read a block as JSON-RPC spells it. Raises ChainUnavailable for anything else."""
    try:
        return Header(
            number=int(answer["number"], 16),
            hash=answer["hash"],
            parent=answer["parentHash"],
            timestamp=int(answer["timestamp"], 16),
            base_fee=int(answer.get("baseFeePerGas", "0x0"), 16),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ChainUnavailable("the node's block cannot be read") from error


class Heads:
    """The newest and the confirmed block. `refresh` is called by one owner, everybody else reads and waits."""

    def __init__(self, rpc: Rpc, *, depth: int, clock: Callable[[], float]) -> None:
        self._rpc = rpc
        self._clock = clock
        self._latest: Header | None = None
        self._confirmed: Header | None = None
        self._seen_at = clock()
        self._changed = asyncio.Event()
        self._nudged = asyncio.Event()
        self._soon: list[float] = []
        self._refreshing = asyncio.Lock()
        self._failure: VeilpodError | None = None
        self.depth = depth
        self.reorgs = 0

    @property
    def latest(self) -> Header:
        """The newest block seen. Raises ChainUnavailable before there is one."""
        if self._latest is None:
            raise ChainUnavailable("no block was seen yet")
        return self._latest

    @property
    def confirmed(self) -> Header:
        """The newest block that is `depth` deep (block 0 on a chain shorter than that).

        Raises ChainUnavailable when the last look, or any call since, failed: what is cached for this block may be long out of date.
        """
        if isinstance(self._failure, InvalidInput):
            raise InvalidInput(self._failure.reason, str(self._failure)) from self._failure
        if self._confirmed is None or self._failure is not None or not self._rpc.reachable:
            raise ChainUnavailable("the newest block is not known") from self._failure
        return self._confirmed

    @property
    def age(self) -> float:
        """Seconds since a new block was last seen: the readiness probe's number."""
        return self._clock() - self._seen_at

    async def refresh(self) -> bool:
        """Look for a new head. True when there is one. Raises ChainUnavailable, or InvalidInput when this is not our chain any more."""
        async with self._refreshing:
            try:
                changed = await self._look()
            except VeilpodError as error:
                self._failure = error
                raise
            self._failure = None
            return changed

    async def _look(self) -> bool:
        latest = await header(self._rpc, "latest")
        if latest is None:
            raise ChainUnavailable("the node has no newest block")
        if self._rpc.witness is not None:
            await self._rpc.witness.look(latest.timestamp)
        if self._latest is not None and latest.hash == self._latest.hash:
            return False
        try:
            confirmed = await self._confirm(latest)
        except Behind:
            if self._confirmed is None or self.age > _LATE_SECONDS:
                raise
            return False  # what was confirmed before still stands
        if self._confirmed is not None and not await self._follows(confirmed, self._confirmed):
            # A replaced chain looks like a deep reorganisation at first: ask who this is before anything of it is believed.
            await self._rpc.distrust()
            confirmed = await self._confirm(latest)
            self.reorgs += 1
            log.warning("chain.reorg", extra={"block": self._confirmed.number, "depth": self.depth})
        self._latest, self._confirmed, self._seen_at = latest, confirmed, self._clock()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        return True

    def give_up(self) -> None:
        """Nobody looks any more: nothing is known from here on."""
        self._failure = ChainUnavailable("the chain is not followed any more")

    async def wait_beyond(self, seen: Header) -> Header:
        """Wait until the newest block is another one than `seen`. Bounded by the caller."""
        while self.latest.hash == seen.hash:
            await self._changed.wait()
        return self.latest

    def nudge(self) -> None:
        """Ask the owner to look now, and soon again: a transaction has just left, and a chain that mines at once needs a moment for it."""
        self._soon = list(_SOON)
        self._nudged.set()

    async def pause(self, seconds: float) -> None:
        """Sleep between two looks, at most until the next nudge."""
        if self._soon:
            seconds = min(seconds, self._soon.pop(0))
        try:
            async with asyncio.timeout(seconds):
                await self._nudged.wait()
        except TimeoutError:
            return
        self._nudged.clear()

    async def _confirm(self, latest: Header) -> Header:
        if self.depth == 0 and self._rpc.witness is None:
            return latest
        confirmed = await agreed_header(self._rpc, max(0, latest.number - self.depth))
        if confirmed is None:
            raise ChainUnavailable("the node does not have the blocks below its head")
        return confirmed

    async def _follows(self, confirmed: Header, before: Header) -> bool:
        if confirmed.hash == before.hash or confirmed.parent == before.hash:
            return True
        now = await header(self._rpc, before.number)
        return now is not None and now.hash == before.hash
