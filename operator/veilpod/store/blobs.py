"""Sealed data sets on disk, each under the SHA-256 of its bytes. Content can therefore not be wrong, only absent.

Which digests may be uploaded is the operator's word (its Dataset objects); nothing else is accepted, so the upload port is no free
storage. The store holds ciphertext only. Serves paper step 5 (the storage server).
"""

import asyncio
import hashlib
import os
import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable

from veilpod.errors import InvalidInput, ProtocolViolation, Refused
from veilpod.store import files

_PIECE = 1 << 20
_READ_SECONDS = 120.0  # an uploader that sends nothing for so long is gone

Reader = Callable[[int], Awaitable[bytes]]


class Blobs:
    """A directory of objects by digest, with a quota over all of them (bytes)."""

    def __init__(self, directory: pathlib.Path, *, quota: int) -> None:
        self._directory = directory
        self._quota = quota
        self._announced: dict[bytes, int] = {}
        self._reserved = 0  # of uploads under way
        directory.mkdir(parents=True, exist_ok=True)
        files.sweep_temporary(directory)

    def announce(self, digest: bytes, size: int) -> bool:
        """Allow the upload of an object of this digest and size (bytes). Whether it is here already."""
        self._announced[digest] = size
        return self.has(digest)

    def has(self, digest: bytes) -> bool:
        """Whether the object is here, whole."""
        return self._path(digest).is_file()

    def used(self) -> int:
        """Bytes of all objects that are here."""
        return sum(entry.stat().st_size for entry in os.scandir(self._directory) if not entry.name.startswith(files.TEMPORARY))

    def forget(self, digest: bytes) -> None:
        """Remove an object and refuse its upload from now on. Nothing happens when it is not here."""
        self._announced.pop(digest, None)
        self._path(digest).unlink(missing_ok=True)
        files.sync_directory(self._directory)

    def admit(self, digest: bytes, size: int) -> None:
        """Check that an object may be uploaded. Raises Refused("NotAnnounced")."""
        if self._announced.get(digest) != size:
            raise Refused("NotAnnounced", "no Dataset here names this digest and size: apply the Dataset first, then upload")

    async def put(self, digest: bytes, size: int, read: Reader) -> bool:
        """Take `size` bytes from `read` and keep them if they hash to `digest`. False when they are here already (nothing is read).

        Raises Refused("NotAnnounced" | "QuotaExceeded") or ProtocolViolation("DigestMismatch" | "UploadCutOff").
        """
        self.admit(digest, size)
        if self.has(digest):
            return False
        if await asyncio.to_thread(self.used) + self._reserved + size > self._quota:
            raise Refused("QuotaExceeded", f"the quota of {self._quota} bytes does not hold {size} more: raise it or delete Datasets")
        self._reserved += size
        try:
            await self._receive(digest, size, read)
        finally:
            self._reserved -= size
        return True

    async def pieces(self, digest: bytes) -> AsyncIterator[bytes]:
        """Read an object in pieces of at most 1 MiB. Raises InvalidInput("NotStored")."""
        try:
            file = await asyncio.to_thread(self._path(digest).open, "rb")
        except FileNotFoundError as error:
            raise InvalidInput("NotStored", "the object was never uploaded: `veilpod dataset put`") from error
        with file:
            while piece := await asyncio.to_thread(file.read, _PIECE):
                yield piece

    def head(self, digest: bytes, size: int) -> bytes:
        """The first `size` bytes of an object. Raises InvalidInput("NotStored")."""
        try:
            with self._path(digest).open("rb") as file:
                return file.read(size)
        except FileNotFoundError as error:
            raise InvalidInput("NotStored", "the object was never uploaded: `veilpod dataset put`") from error

    async def _receive(self, digest: bytes, size: int, read: Reader) -> None:
        with files.replacing(self._path(digest)) as file:
            found, left = hashlib.sha256(), size
            while left:
                async with asyncio.timeout(_READ_SECONDS):
                    piece = await read(min(_PIECE, left))
                if not piece:
                    raise ProtocolViolation("UploadCutOff", f"the upload ended {left} bytes early", party="uploader")
                left -= len(piece)
                found.update(piece)
                await asyncio.to_thread(file.write, piece)
            if found.digest() != digest:
                raise ProtocolViolation(
                    "DigestMismatch", "the bytes do not hash to the announced digest: seal and announce again", party="uploader"
                )
            # The long part of becoming durable, off the event loop; what `replacing` does afterwards is short.
            await asyncio.to_thread(files.flush, file)

    def _path(self, digest: bytes) -> pathlib.Path:
        if len(digest) != 32:
            raise ProtocolViolation("BadDigest", "a digest is 32 bytes")
        return self._directory / digest.hex()
