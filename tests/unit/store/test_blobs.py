"""Objects are kept whole under their digest, or not at all."""

import hashlib
import pathlib

import pytest

from veilpod.errors import InvalidInput, ProtocolViolation, Refused
from veilpod.store.blobs import Blobs, Reader

OBJECT = b"sealed" * 1000
DIGEST = hashlib.sha256(OBJECT).digest()


def reader(data: bytes) -> Reader:
    left = bytearray(data)

    async def read(limit: int) -> bytes:
        piece = bytes(left[: min(limit, 777)])
        del left[: len(piece)]
        return piece

    return read


def announced(directory: pathlib.Path, *, quota: int = 1 << 20) -> Blobs:
    blobs = Blobs(directory, quota=quota)
    blobs.announce(DIGEST, len(OBJECT))
    return blobs


def leftovers(directory: pathlib.Path) -> list[str]:
    return [path.name for path in directory.iterdir() if path.name != DIGEST.hex()]


async def test_an_announced_object_is_kept_and_read_back_after_a_restart(tmp_path: pathlib.Path) -> None:
    assert await announced(tmp_path).put(DIGEST, len(OBJECT), reader(OBJECT))
    again = Blobs(tmp_path, quota=1)
    assert again.has(DIGEST)
    assert b"".join([piece async for piece in again.pieces(DIGEST)]) == OBJECT
    assert again.head(DIGEST, 5) == OBJECT[:5]


async def test_a_second_upload_of_the_same_object_reads_nothing(tmp_path: pathlib.Path) -> None:
    blobs = announced(tmp_path)
    await blobs.put(DIGEST, len(OBJECT), reader(OBJECT))

    async def never(limit: int) -> bytes:
        raise AssertionError("read")

    assert not await blobs.put(DIGEST, len(OBJECT), never)


@pytest.mark.parametrize(("data", "reason"), [(b"x" + OBJECT[1:], "DigestMismatch"), (OBJECT[:-1], "UploadCutOff"), (b"", "UploadCutOff")])
async def test_other_bytes_than_announced_leave_nothing_behind(tmp_path: pathlib.Path, data: bytes, reason: str) -> None:
    blobs = announced(tmp_path)
    with pytest.raises(ProtocolViolation) as refused:
        await blobs.put(DIGEST, len(OBJECT), reader(data))
    assert refused.value.reason == reason
    assert not blobs.has(DIGEST)
    assert leftovers(tmp_path) == []


async def test_a_digest_that_nobody_announced_is_refused(tmp_path: pathlib.Path) -> None:
    blobs = Blobs(tmp_path, quota=1 << 20)
    with pytest.raises(Refused, match="apply the Dataset first"):
        await blobs.put(DIGEST, len(OBJECT), reader(OBJECT))
    blobs.announce(DIGEST, len(OBJECT) + 1)
    with pytest.raises(Refused):
        await blobs.put(DIGEST, len(OBJECT), reader(OBJECT))


async def test_the_quota_holds_and_a_failed_upload_gives_its_share_back(tmp_path: pathlib.Path) -> None:
    blobs = announced(tmp_path, quota=len(OBJECT))
    with pytest.raises(ProtocolViolation):
        await blobs.put(DIGEST, len(OBJECT), reader(b"short"))
    assert await blobs.put(DIGEST, len(OBJECT), reader(OBJECT))
    other = b"y"
    blobs.announce(hashlib.sha256(other).digest(), 1)
    with pytest.raises(Refused) as refused:
        await blobs.put(hashlib.sha256(other).digest(), 1, reader(other))
    assert refused.value.reason == "QuotaExceeded"


async def test_a_forgotten_object_is_gone_and_not_taken_again(tmp_path: pathlib.Path) -> None:
    blobs = announced(tmp_path)
    await blobs.put(DIGEST, len(OBJECT), reader(OBJECT))
    blobs.forget(DIGEST)
    blobs.forget(DIGEST)
    assert not blobs.has(DIGEST)
    with pytest.raises(InvalidInput):
        blobs.head(DIGEST, 1)
    with pytest.raises(Refused):
        await blobs.put(DIGEST, len(OBJECT), reader(OBJECT))


def test_what_a_killed_process_left_unfinished_is_swept(tmp_path: pathlib.Path) -> None:
    (tmp_path / ".part-0011").write_bytes(b"half")
    Blobs(tmp_path, quota=1)
    assert leftovers(tmp_path) == []
