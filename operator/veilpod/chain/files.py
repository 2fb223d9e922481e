"""Writing that survives a crash at any instruction: whole files by rename, growing files by framed records.

A record file is `u32 length | u32 CRC-32 of length | u32 CRC-32 of payload | payload` repeated. `append` returns after fsync, so
what was appended before a signature or a transaction left is there after it. A crash inside an append leaves a torn tail, the
beginning of a record and zeros at most, which nobody was told about: opening cuts it off. Anything else that is no record was left
by no crash; it may be what somebody was given a signature on, so it is refused and left as it is.
"""

import fcntl
import os
import pathlib
import struct
import zlib
from collections.abc import Iterator

from veilpod.errors import InvalidInput, Refused

_HEADER = struct.Struct(">III")
MAX_RECORD = 16 << 20


def write_atomically(path: pathlib.Path, data: bytes) -> None:
    """Replace a file: after a crash it holds either the old bytes or the new ones."""
    temporary = path.with_name(path.name + ".new")
    with open(temporary, "wb", opener=_private) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_directory(path.parent)


def sync_directory(path: pathlib.Path) -> None:
    """Make a directory's entries durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def private_directory(path: pathlib.Path) -> pathlib.Path:
    """Make a directory that only its owner may enter. Raises InvalidInput("StateUnwritable")."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise InvalidInput("StateUnwritable", "the state directory cannot be made") from error
    if not os.access(path, os.W_OK):
        raise InvalidInput("StateUnwritable", "the state directory cannot be written to")
    return path


class DirectoryLock:
    """One process at a time. The kernel gives it back when the process ends, however it ends."""

    def __init__(self, directory: pathlib.Path, *, reason: str) -> None:
        """Take the lock, or raise Refused with `reason`."""
        self._descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.release()
            raise Refused(reason, "another process uses this state directory: run one operator per chain key") from error

    def release(self) -> None:
        """Give the lock back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class RecordFile:
    """An append-only file of records. One writer."""

    def __init__(self, path: pathlib.Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def open(cls, path: pathlib.Path) -> tuple["RecordFile", list[bytes]]:
        """Open or make a file and read its records. Raises InvalidInput("JournalDamaged") for damage that no crash leaves."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            data = _read_all(descriptor)
            records = list(_parse(path, data))
            end = sum(_HEADER.size + len(record) for record in records)
            if end < len(data):
                os.ftruncate(descriptor, end)
            os.lseek(descriptor, end, os.SEEK_SET)
            os.fsync(descriptor)
            sync_directory(path.parent)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor), records

    def append(self, *records: bytes) -> None:
        """Append records, in order. When this returns, they are on the disk; a crash before that leaves some first ones of them.

        Raises OSError; then the file takes no more records until it is opened again.
        """
        for record in records:
            if not 0 < len(record) <= MAX_RECORD:
                raise ValueError(f"a record of {len(record)} bytes")
        if self._descriptor < 0:
            raise OSError(f"{self._path.name} is closed: an earlier append failed, or close was called")
        try:
            _write_all(self._descriptor, b"".join(map(_frame, records)))
            os.fdatasync(self._descriptor)
        except BaseException:
            self.close()  # after a failed fsync nobody knows what is on the disk: only opening again tells
            raise

    def close(self) -> None:
        """Close the file. What was appended is durable already."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _parse(path: pathlib.Path, data: bytes) -> Iterator[bytes]:
    position = 0
    while (record := _record_at(data, position)) is not None:
        yield record
        position += _HEADER.size + len(record)
    followed = any(_record_at(data, offset) is not None for offset in range(position + 1, len(data)))
    if followed or not _torn(data[position:]):
        raise InvalidInput(
            "JournalDamaged",
            f"{path.name} is damaged at byte {position} of {len(data)}, by the disk or by hand. Restore it from a copy that is as new as "
            "the damage. Do not delete or cut it: this operator would sign a second state with a number that it has signed before.",
        )


def _torn(tail: bytes) -> bool:
    """Whether a crash inside an append may have left this: the beginning of a record, then blocks that were never written."""
    written = tail.rstrip(b"\0")
    if len(written) < _HEADER.size:
        return True
    length, length_checksum, _ = _HEADER.unpack_from(tail)
    return bool(length_checksum == zlib.crc32(tail[:4]) and len(written) < _HEADER.size + length)


def _record_at(data: bytes, position: int) -> bytes | None:
    if position + _HEADER.size > len(data):
        return None
    length, length_checksum, checksum = _HEADER.unpack_from(data, position)
    if not 0 < length <= MAX_RECORD or length_checksum != zlib.crc32(data[position : position + 4]):
        return None
    record = data[position + _HEADER.size : position + _HEADER.size + length]
    return record if len(record) == length and zlib.crc32(record) == checksum else None


def _frame(record: bytes) -> bytes:
    length = len(record).to_bytes(4, "big")
    return _HEADER.pack(len(record), zlib.crc32(length), zlib.crc32(record)) + record


def _read_all(descriptor: int) -> bytes:
    chunks = []
    while chunk := os.read(descriptor, 1 << 20):
        chunks.append(chunk)
    return b"".join(chunks)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
