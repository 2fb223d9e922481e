"""The journal of channel states: what we may have to show on chain, on disk before a signature leaves.

One append-only file per channel in one directory (`files` says how a record survives a crash). It is the operator's money: it is locked
against a second writer, never rewritten, and refused when it is damaged. What a record means is in `veilpod.core.channel`.
"""

import asyncio
import pathlib
import threading
from collections.abc import Mapping, Sequence

from veilpod.chain.files import DirectoryLock, RecordFile, private_directory
from veilpod.core.channel.records import Record, Signed, StateRecord, decode, encode
from veilpod.core.ids import ChannelId
from veilpod.errors import InvalidInput, ProtocolViolation

_SUFFIX = ".journal"


class Journal:
    """Every channel of one operator. `append` blocks for one fdatasync, `write` does not."""

    def __init__(self, directory: pathlib.Path, lock: DirectoryLock) -> None:
        self._directory = directory
        self._lock = lock
        self._files: dict[ChannelId, RecordFile] = {}
        self._records: dict[ChannelId, list[Record]] = {}
        self._appending = threading.RLock()

    @classmethod
    def open(cls, directory: pathlib.Path) -> "Journal":
        """Lock and read a directory; torn tails are cut.

        Raises Refused("JournalBusy") when another process has it, InvalidInput("JournalDamaged") when more than a tail is wrong.
        """
        private_directory(directory)
        journal = cls(directory, DirectoryLock(directory, reason="JournalBusy"))
        try:
            for path in sorted(directory.glob("*" + _SUFFIX)):
                journal._load(path)
        except BaseException:
            journal.close()
            raise
        return journal

    def append(self, *records: Record) -> None:
        """Write records of one channel. They are on the disk when this returns; only then may what they describe leave."""
        with self._appending:
            (channel,) = {record.channel for record in records}
            if channel not in self._files:
                self._load(self._directory / (channel.hex() + _SUFFIX))
            self._files[channel].append(*map(encode, records))
            self._records[channel] += records

    async def write(self, *records: Record) -> None:
        """Append in a thread. A caller who is cancelled still waits until it is known what the journal holds."""
        work = asyncio.ensure_future(asyncio.to_thread(self.append, *records))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])  # bounded by the disk; a machine made from half the truth would sign a version twice
            raise

    def records(self, channel: ChannelId) -> Sequence[Record]:
        """A channel's records, oldest first: what a machine is made again from. Waits for an append that is under way."""
        with self._appending:
            return tuple(self._records.get(channel, ()))

    def newest(self, channel: ChannelId, session: int | None = None) -> Signed | None:
        """The newest state that both have signed, in a session of the channel or over all of them."""
        states = [record.signed for record in self.records(channel) if isinstance(record, StateRecord) and record.signed.complete]
        ours = [signed for signed in states if session is None or signed.state.epoch == session]
        return max(ours, key=lambda signed: signed.state.version, default=None)

    def channels(self) -> Mapping[ChannelId, Signed | None]:
        """Every channel there is a file of, with its newest state."""
        return {channel: self.newest(channel) for channel in self._records}

    def close(self) -> None:
        """Close the files and give the lock back."""
        for file in self._files.values():
            file.close()
        self._files.clear()
        self._lock.release()

    def _load(self, path: pathlib.Path) -> None:
        try:
            channel = ChannelId(bytes.fromhex(path.stem))
        except ValueError as error:
            raise InvalidInput("JournalDamaged", f"{path.name} is no journal of ours") from error
        file, records = RecordFile.open(path)
        self._files[channel] = file
        try:
            decoded = [decode(record) for record in records]
            if any(record.channel != channel for record in decoded):
                raise ProtocolViolation("BadRecord", "a record of another channel", party="journal")
        except ProtocolViolation as violation:
            raise InvalidInput("JournalDamaged", f"{path.name} cannot be read: {violation}") from violation
        self._records[channel] = decoded
