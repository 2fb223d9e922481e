import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import sandboxes

from veilpod.core.ids import TaskId
from veilpod.core.result import LOG_LIMIT, Entry, Log, Result, open_result, pack, result_hash, seal_result, unpack
from veilpod.core.sealing import HybridPrivateKey
from veilpod.errors import ProtocolViolation, Refused

REQUESTER = HybridPrivateKey.from_bytes(b"\x09" * 96)
TASK = sandboxes.TASK

names = st.text(alphabet="abcdefgäß-_ .", min_size=1, max_size=30).filter(lambda name: name not in (".", ".."))
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
entries = st.lists(
    st.builds(Entry, path=paths, data=st.binary(max_size=2000), executable=st.booleans()), unique_by=lambda e: e.path, max_size=8
)


@given(entries)
def test_an_archive_gives_back_what_was_packed_in_order(files: list[Entry]) -> None:
    assert unpack(pack(files, limit=1 << 20)) == sorted(files, key=lambda e: e.path)


@given(entries, st.randoms())
def test_equal_outputs_are_equal_bytes_whatever_their_order(files: list[Entry], random: object) -> None:
    shuffled = list(files)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert pack(files, limit=1 << 20) == pack(shuffled, limit=1 << 20)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../b", "a//b", "", ".", "a/./b", "x" * 2000])
def test_a_path_that_leads_elsewhere_is_refused_by_both_ends(path: str) -> None:
    with pytest.raises(ProtocolViolation):
        pack([Entry(path=path, data=b"")], limit=1 << 20)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo(path))
    with pytest.raises(ProtocolViolation):
        unpack(buffer.getvalue())


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_an_archive_with_anything_but_files_is_refused(kind: bytes) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("x")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(ProtocolViolation):
        unpack(buffer.getvalue())


def test_a_result_above_its_limit_is_refused() -> None:
    with pytest.raises(Refused) as refused:
        pack([Entry(path="big", data=bytes(100_000))], limit=100_000)
    assert refused.value.reason == "ResultTooLarge"


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_the_recipient_finds_archive_and_log(stdout: bytes, stderr: bytes) -> None:
    log = Log(stdout=stdout, stderr=stderr, stdout_dropped=3)
    result = Result(archive=pack([Entry(path="model", data=b"weights")], limit=1 << 20), log=log, left_out=("link",))
    assert open_result(seal_result(result, task=TASK, recipient=REQUESTER.public_bytes), REQUESTER, task=TASK) == result


def test_a_long_log_keeps_its_end() -> None:
    result = Result(archive=pack([], limit=1 << 20), log=Log(stdout=b"a" + b"b" * LOG_LIMIT))
    opened = open_result(seal_result(result, task=TASK, recipient=REQUESTER.public_bytes), REQUESTER, task=TASK)
    assert opened.log.stdout == b"b" * LOG_LIMIT


SEALED = seal_result(
    Result(archive=pack([Entry(path="m", data=b"w")], limit=1 << 20), log=Log()), task=TASK, recipient=REQUESTER.public_bytes
)


@given(position=st.integers(0, len(SEALED) - 1), mask=st.integers(1, 255))
def test_no_byte_of_a_sealed_result_can_be_altered(position: int, mask: int) -> None:
    altered = bytearray(SEALED)
    altered[position] ^= mask
    assert result_hash(TASK, bytes(altered)) != result_hash(TASK, SEALED)
    with pytest.raises(ProtocolViolation):
        open_result(bytes(altered), REQUESTER, task=TASK)


def test_a_result_of_another_task_does_not_open() -> None:
    with pytest.raises(ProtocolViolation):
        open_result(SEALED, REQUESTER, task=TaskId(b"\x12" * 32))
