"""The result of a task: a deterministic archive, sealed to the recipient, hashed for the chain (paper steps 8 and 9).

    R = tar of the program's output, sorted, without times and owners: equal outputs are equal bytes
    S = HPKE to the recipient of (u32 length || canonical header || R); the header carries SHA-256 of R and the end of the program's log
    result hash = keccak256("veilpod.result.v1" || 0x00 || task id || SHA-256 of S)

Nothing here reads a file system: `agent` collects the entries, `client` writes them.
"""

import dataclasses
import hashlib
import io
import tarfile
from collections.abc import Iterable
from typing import Any

from veilpod.core.canonical import canonical, keccak256, parse_canonical, to_hex
from veilpod.core.fields import Fields
from veilpod.core.ids import TaskId
from veilpod.core.sealing import HybridPrivateKey, seal_hybrid
from veilpod.errors import ProtocolViolation, Refused

RESULT_TAG = "veilpod.result.v1"
LOG_LIMIT = 64 << 10  # bytes of each stream
_HEADER_LIMIT = 1 << 20
MAX_PATH = 1024
_LEFT_OUT_LIMIT = 100


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A regular file of the output; `path` is relative, with forward slashes."""

    path: str
    data: bytes
    executable: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """The end of what the program wrote, and how much came before it."""

    stdout: bytes = b""
    stderr: bytes = b""
    stdout_dropped: int = 0
    stderr_dropped: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What the recipient finds inside S. `left_out` names what a result cannot hold (links, devices), 100 names at most."""

    archive: bytes
    log: Log
    left_out: tuple[str, ...] = ()

    @property
    def digest(self) -> bytes:
        """SHA-256 of the archive."""
        return hashlib.sha256(self.archive).digest()


def pack(entries: Iterable[Entry], *, limit: int) -> bytes:
    """Make the archive R. Raises Refused("ResultTooLarge") above `limit` bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in sorted(entries, key=lambda e: e.path):
            info = tarfile.TarInfo(_checked(entry.path))
            info.size = len(entry.data)
            info.mode = 0o755 if entry.executable else 0o644
            tar.addfile(info, io.BytesIO(entry.data))
            if buffer.tell() > limit:
                break
    archive = buffer.getvalue()
    if len(archive) > limit:
        raise Refused("ResultTooLarge", f"the result has more than the {limit} bytes that the task allows")
    return archive


def unpack(archive: bytes) -> list[Entry]:
    """Read an archive: regular files with relative paths, or ProtocolViolation("BadResult")."""
    entries: list[Entry] = []
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            for info in tar:
                if not info.isreg():
                    raise ProtocolViolation("BadResult", "a result holds regular files only", party="sandbox")
                handle = tar.extractfile(info)
                assert handle is not None
                entries.append(Entry(path=_checked(info.name), data=handle.read(), executable=bool(info.mode & 0o100)))
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise ProtocolViolation("BadResult", "the result is no archive", party="sandbox") from error
    if len({entry.path for entry in entries}) != len(entries):
        raise ProtocolViolation("BadResult", "a result holds a path twice", party="sandbox")
    return entries


def seal_result(result: Result, *, task: TaskId, recipient: bytes) -> bytes:
    """Make S for a recipient's hybrid public key."""
    header = canonical(
        {
            "digest": to_hex(result.digest),
            "log": {
                "stdout": to_hex(result.log.stdout[-LOG_LIMIT:]),
                "stderr": to_hex(result.log.stderr[-LOG_LIMIT:]),
                "stdoutDropped": result.log.stdout_dropped,
                "stderrDropped": result.log.stderr_dropped,
            },
            "leftOut": [name[:MAX_PATH] for name in result.left_out[:_LEFT_OUT_LIMIT]],
        }
    )
    return seal_hybrid(recipient, len(header).to_bytes(4, "big") + header + result.archive, tag=RESULT_TAG, context=task)


def open_result(sealed: bytes, key: HybridPrivateKey, *, task: TaskId) -> Result:
    """Open S. Raises ProtocolViolation("CannotOpen" | "BadResult"). Compare `result_hash` with the chain first."""
    plain = key.open(sealed, tag=RESULT_TAG, context=task)
    length = int.from_bytes(plain[:4], "big")
    if len(plain) < 4 or length > min(_HEADER_LIMIT, len(plain) - 4):
        raise ProtocolViolation("BadResult", "the result's header is cut off", party="sandbox")
    result, digest = _header_of(parse_canonical(plain[4 : 4 + length]), plain[4 + length :])
    if digest != result.digest:
        raise ProtocolViolation("BadResult", "the result's archive is not the one that its header names", party="sandbox")
    return result


def result_hash(task: TaskId, sealed: bytes) -> bytes:
    """What `complete` puts on chain. 32 bytes."""
    return result_hash_of_digest(task, hashlib.sha256(sealed).digest())


def result_hash_of_digest(task: TaskId, digest: bytes) -> bytes:
    """The same, for who has only SHA-256 of S. 32 bytes."""
    return keccak256(RESULT_TAG.encode() + b"\0" + task + digest)


def _header_of(value: Any, archive: bytes) -> tuple[Result, bytes]:
    fields = Fields(value, what="result header", party="sandbox")
    log = fields.fields("log")
    digest = fields.data("digest", 32)
    left_out = fields.items("leftOut", maximum=_LEFT_OUT_LIMIT)
    if not all(isinstance(name, str) and len(name) <= MAX_PATH for name in left_out):
        raise fields.violation("has a bad leftOut")
    result = Result(
        archive=archive,
        log=Log(
            stdout=log.data("stdout", maximum=LOG_LIMIT),
            stderr=log.data("stderr", maximum=LOG_LIMIT),
            stdout_dropped=log.integer("stdoutDropped"),
            stderr_dropped=log.integer("stderrDropped"),
        ),
        left_out=tuple(left_out),
    )
    log.done()
    fields.done()
    return result, digest


def _checked(path: str) -> str:
    parts = path.split("/")
    if len(path.encode(errors="surrogateescape")) > MAX_PATH or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise ProtocolViolation("BadResult", "a result holds a path that leads elsewhere", party="sandbox")
    return path
