"""Chain events as hints, at least once each, across crashes and reorganisations (ports.ChainReader.events).

A durable cursor says up to which confirmed block everything was handed out and taken. It remembers the hashes of recent blocks:
when one of them is no longer on the chain, what lies behind the fork is handed out again. Hints carry no truth: who gets one
reads the chain. Losing none of them matters, getting one twice does not.
"""

import asyncio
import json
import logging
import pathlib
from collections.abc import AsyncIterator

from veilpod.chain import contracts, logs
from veilpod.chain.files import write_atomically
from veilpod.chain.heads import Header, Heads, header
from veilpod.chain.rpc import Rpc
from veilpod.core.entities import ChainEvent
from veilpod.errors import ChainUnavailable, InvalidInput, Transient

log = logging.getLogger(__name__)

REMEMBERED = 64  # blocks whose hashes the cursor keeps
_STEP = 2_000  # blocks read at once while catching up
_LAZY = 30  # blocks without an event that are not worth a write: reading them again costs less
_RETRY_SECONDS = 1.0


class Follower:
    """The log follower. One iteration at a time."""

    def __init__(self, rpc: Rpc, heads: Heads, addresses: contracts.Addresses, file: pathlib.Path) -> None:
        self._rpc = rpc
        self._heads = heads
        self._addresses = addresses
        self._file = file
        self._saved = -1
        self._trail: dict[int, str] = {}  # block -> hash, oldest first; the newest is the cursor
        self._busy = False

    @property
    def position(self) -> int:
        """The last block whose events were all handed out; -1 before the first."""
        return next(reversed(self._trail), -1)

    def start(self) -> None:
        """Load the cursor, or begin at the confirmed block: older truth is read by whoever starts.

        Raises InvalidInput("StateUnreadable").
        """
        try:
            document = json.loads(self._file.read_bytes())
            self._trail = {int(block): str(block_hash) for block, block_hash in document["trail"]}
        except FileNotFoundError:
            self._advance(self._heads.confirmed, worth_saving=True)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidInput("StateUnreadable", f"{self._file.name} in the state directory cannot be read") from error

    async def events(self) -> AsyncIterator[ChainEvent]:
        """Yield hints for ever, waiting for new blocks. An event counts as taken when the next one is asked for."""
        if self._busy:
            raise RuntimeError("the chain is being followed already")
        self._busy = True
        failing = False
        try:
            while True:
                try:
                    seen = self._heads.latest
                    await self._find_fork()
                    async for event in self._new_events():
                        yield event
                    await self._heads.wait_beyond(seen)
                    failing = False
                except Transient as error:
                    if not failing:
                        log.warning("chain.follow_failed", extra={"cause": str(error)})
                    failing = True
                    await asyncio.sleep(_RETRY_SECONDS)
        finally:
            self._busy = False

    async def _new_events(self) -> AsyncIterator[ChainEvent]:
        goal = self._heads.confirmed
        while self.position < goal.number:
            first = self.position + 1
            last = min(goal.number, first + _STEP - 1)
            before = goal if last == goal.number else await header(self._rpc, last)
            entries = await logs.all_logs(self._rpc, self._addresses, contracts.NAMES, [], first=first, last=last)
            after = await header(self._rpc, last)
            if before is None or after is None or before.hash != after.hash:
                raise ChainUnavailable("the chain was reorganised while it was read")
            for entry in entries:
                yield _hint(entry)
            self._advance(after, worth_saving=bool(entries))

    async def _find_fork(self) -> None:
        """Go back to the newest remembered block that is still on the chain."""
        dropped = 0
        for block, block_hash in reversed(list(self._trail.items())):
            if not block_hash:
                break
            now = await header(self._rpc, block) if block <= self._heads.confirmed.number else None
            if now is not None and now.hash == block_hash:
                break
            del self._trail[block]
            dropped += 1
        else:
            # Deeper than we remember. The network check decides whether this is still our chain; if it is, everything is worth a look.
            self._trail = {max(0, self._addresses.since) - 1: ""}
        if dropped:
            log.warning("chain.replayed", extra={"from": self.position + 1})

    def _advance(self, block: Header, *, worth_saving: bool) -> None:
        self._trail[block.number] = block.hash
        while len(self._trail) > REMEMBERED:
            del self._trail[next(iter(self._trail))]
        if worth_saving or abs(block.number - self._saved) >= _LAZY:
            write_atomically(self._file, json.dumps({"trail": list(self._trail.items())}).encode())
            self._saved = block.number


def _hint(entry: logs.Log) -> ChainEvent:
    subject = bytes.fromhex(entry.topics[1][2:]) if len(entry.topics) > 1 else b""
    if entry.contract == "NodeRegistry" and entry.name.startswith("Node"):
        subject = subject[-4:]
    return ChainEvent(
        contract=entry.contract,
        name=entry.name,
        subject=subject,
        args=dict(entry.args),
        block=entry.block,
        transaction=entry.transaction,
    )
