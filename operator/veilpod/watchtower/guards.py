"""What a tower holds, on disk: one file per channel with its newest co-signed state, replaced by rename.

`put` returns after fsync, so a receipt that was given for a state survives any crash. A file proves itself: what does not carry both
parties' signatures is counted as damaged and left alone, loudly, and never keeps the tower from guarding the others. Nothing here signs
for a channel, and nothing here is secret.
"""

import asyncio
import contextlib
import dataclasses
import logging
import pathlib
import weakref
from collections.abc import AsyncIterator, Mapping

from veilpod.chain.files import DirectoryLock, private_directory, sync_directory, write_atomically
from veilpod.core.canonical import canonical, parse_canonical
from veilpod.core.fields import Fields
from veilpod.core.guard import take_guarded
from veilpod.core.ids import ChannelId
from veilpod.core.typed_data import Domain
from veilpod.errors import ProtocolViolation
from veilpod.watchtower.decide import REMEMBERED, Guard

log = logging.getLogger(__name__)
_SUFFIX = ".guard"


class Guards:
    """Every guarded channel of one tower, in memory and on disk. Who writes one holds its `turn`."""

    def __init__(self, directory: pathlib.Path, lock: DirectoryLock) -> None:
        self._directory, self._lock = directory, lock
        self._guards: dict[ChannelId, Guard] = {}
        self._turns: weakref.WeakValueDictionary[ChannelId, asyncio.Lock] = weakref.WeakValueDictionary()
        self.damaged = 0

    @classmethod
    def open(cls, directory: pathlib.Path, domain: Domain) -> "Guards":
        """Lock and load. Raises Refused("TowerActive") when another process has the directory."""
        private_directory(directory)
        guards = cls(directory, DirectoryLock(directory, reason="TowerActive"))
        for path in sorted(directory.glob("*" + _SUFFIX)):
            guards._load(path, domain)
        return guards

    @property
    def all(self) -> Mapping[ChannelId, Guard]:
        """Every guard by channel."""
        return self._guards

    def find(self, channel: ChannelId) -> Guard | None:
        """A channel's guard."""
        return self._guards.get(channel)

    @contextlib.asynccontextmanager
    async def turn(self, channel: ChannelId) -> AsyncIterator[Guard | None]:
        """Hold a channel: its guard stays what it is, but for what the holder writes."""
        lock = self._turns.setdefault(channel, asyncio.Lock())
        async with lock:
            yield self.find(channel)

    async def write(self, guard: Guard) -> None:
        """`put` in a thread. A caller who is cancelled still waits until it is known what the disk holds."""
        work = asyncio.ensure_future(asyncio.to_thread(self.put, guard))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])
            raise

    def put(self, guard: Guard) -> None:
        """Write a guard, never an older state over a newer one. It is on the disk when this returns."""
        channel = guard.held.place.channel
        known = self._guards.get(channel)
        if known is not None and known.held.state.version > guard.held.state.version:
            raise ValueError("an older state would replace a newer one")
        document = {**guard.held.document(), "until": guard.until, "answers": list(guard.answers)}
        write_atomically(self._file(channel), canonical(document))
        self._guards[channel] = guard

    def drop(self, channel: ChannelId) -> None:
        """Forget a channel whose session is over."""
        self._file(channel).unlink(missing_ok=True)
        sync_directory(self._directory)
        self._guards.pop(channel, None)

    def close(self) -> None:
        """Give the lock back."""
        self._lock.release()

    def _file(self, channel: ChannelId) -> pathlib.Path:
        return self._directory / (channel.hex() + _SUFFIX)

    def _load(self, path: pathlib.Path, domain: Domain) -> None:
        try:
            guard = _parse(path.read_bytes())
            guard.held.check(domain)
            if guard.held.place.channel.hex() != path.stem:
                raise ProtocolViolation("BadGuard", "a guard of another channel", party="disk")
        except (OSError, ProtocolViolation) as error:
            self.damaged += 1
            log.critical("guard.damaged", extra={"file": path.name, "cause": str(error)})
            return
        self._guards[guard.held.place.channel] = guard


def _parse(data: bytes) -> Guard:
    fields = Fields(parse_canonical(data), what="guard", party="disk")
    held, until, answers = take_guarded(fields), fields.integer("until"), fields.items("answers", maximum=REMEMBERED)
    fields.done()
    if not all(isinstance(version, int) for version in answers):
        raise fields.violation("has bad answers")
    return dataclasses.replace(Guard(held=held, until=until), answers=tuple(answers))
