"""Files that are whole or not there: temporary name, fsync, rename, fsync of the directory.

Everything but `keep` blocks; callers in the event loop go through `asyncio.to_thread`. It knows nothing of what the files mean.
"""

import asyncio
import contextlib
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import Any, BinaryIO

from veilpod.core.canonical import canonical
from veilpod.errors import Refused

TEMPORARY = ".part-"
_MAX_DOCUMENT = 256 << 10


async def keep(path: pathlib.Path, document: Any) -> None:
    """Write a document. Raises Refused("TooLarge")."""
    body = canonical(document)
    if len(body) > _MAX_DOCUMENT:
        raise Refused("TooLarge", f"a document has at most {_MAX_DOCUMENT} bytes")
    await asyncio.to_thread(write_atomically, path, body)


def write_atomically(path: pathlib.Path, data: bytes) -> None:
    """Write a small file so that a crash leaves the old content or the new."""
    with replacing(path) as file:
        file.write(data)


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes `path` when the block ends well, and vanishes when it does not."""
    temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            yield file
            flush(file)
        temporary.replace(path)
        sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def flush(file: BinaryIO) -> None:
    """Bring everything written so far to the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_directory(directory: pathlib.Path) -> None:
    """Make a rename or removal in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep_temporary(directory: pathlib.Path) -> None:
    """Remove what an earlier process left unfinished."""
    for path in directory.glob(f"{TEMPORARY}*"):
        path.unlink(missing_ok=True)
