"""A sealed result on disk while it arrives in pieces: `result.json` (what was signed), `result.part`, and at last `result.bin`.

A result counts as here only as `result.bin`: whole, proved by its digest, durable. Everything blocks; the mailbox calls it in a
thread and under a lock.
"""

import hashlib
import json
import pathlib
from typing import BinaryIO

from veilpod.core.canonical import canonical
from veilpod.core.meeting import ResultPiece
from veilpod.core.store_messages import ResultInfo, parse_result_info
from veilpod.errors import InvalidInput, ProtocolViolation, Refused
from veilpod.store import files


def find(directory: pathlib.Path) -> ResultInfo | None:
    """The result that is here whole, or None."""
    return _signed(directory) if (directory / "result.bin").is_file() else None


def open_whole(directory: pathlib.Path) -> BinaryIO:
    """Open the whole result. Raises InvalidInput("NoResult")."""
    try:
        return (directory / "result.bin").open("rb")
    except FileNotFoundError as error:
        raise InvalidInput("NoResult", "the mailbox has no whole result of this task yet: see `veilpod task status`") from error


def keep(directory: pathlib.Path, piece: ResultPiece) -> tuple[int, bool]:
    """Append a piece whose signature was checked. (bytes that are here now, whether the result just became whole)."""
    info = ResultInfo(size=piece.total, digest=piece.digest, signature=piece.signature, author=piece.author)
    begun = _signed(directory)
    if begun is None:
        (directory / "result.part").unlink(missing_ok=True)
        files.write_atomically(directory / "result.json", canonical(info.document()))
    elif begun != info:
        raise Refused("AlreadyWritten", "another result of this task was begun")
    if (directory / "result.bin").is_file():
        return info.size, False
    have = _append(directory / "result.part", piece)
    if have < info.size:
        return have, False
    _finish(directory, info)
    return have, True


def _append(part: pathlib.Path, piece: ResultPiece) -> int:
    with part.open("ab") as file:
        have = file.tell()
        if piece.offset > have:
            raise Refused("Gap", f"the next piece starts at {have}")
        # What is here already is not compared: the digest at the end decides about every byte.
        file.write(piece.chunk[have - piece.offset :])
        if file.tell() == piece.total:
            files.flush(file)
        return file.tell()


def _finish(directory: pathlib.Path, info: ResultInfo) -> None:
    part = directory / "result.part"
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").digest()
    if found != info.digest:
        part.unlink()
        raise ProtocolViolation(
            "DigestMismatch", "the pieces do not make up the signed result: send it again from the start", party="agent"
        )
    part.replace(directory / "result.bin")
    files.sync_directory(directory)


def _signed(directory: pathlib.Path) -> ResultInfo | None:
    path = directory / "result.json"
    return parse_result_info(json.loads(path.read_bytes())) if path.is_file() else None
