import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veilpod.chain import files
from veilpod.chain.files import DirectoryLock, RecordFile, write_atomically
from veilpod.errors import InvalidInput, Refused

payloads = st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=4)


def write(path, records):
    """Write records and say where on the disk each of them ends."""
    file, _ = RecordFile.open(path)
    ends = []
    for record in records:
        file.append(record)
        ends.append(path.stat().st_size)
    file.close()
    return ends


def read(path):
    file, records = RecordFile.open(path)
    file.close()
    return records


@settings(deadline=None, max_examples=25)
@given(payloads)
def test_a_file_cut_at_any_byte_keeps_every_record_that_was_acknowledged(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("records") / "file"
    ends = write(path, records)
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        expected = [record for record, end in zip(records, ends, strict=True) if end <= size]
        assert read(path) == expected
        # The torn tail is gone: what is appended now is found again.
        write(path, [b"after the crash"])
        assert read(path) == [*expected, b"after the crash"]


@settings(deadline=None, max_examples=25)
@given(payloads, st.integers(1, 30))
def test_a_tail_of_blocks_that_were_never_written_is_no_damage(tmp_path_factory, records, size):
    path = tmp_path_factory.mktemp("records") / "file"
    write(path, records)
    with open(path, "ab") as file:
        file.write(bytes(size))
    assert read(path) == records


@settings(deadline=None, max_examples=50)
@given(payloads, st.data())
def test_a_flipped_bit_is_refused_wherever_it_is_and_nothing_is_cut(tmp_path_factory, records, data):
    path = tmp_path_factory.mktemp("records") / "file"
    write(path, [record + b"}" for record in records])  # no record of ours ends with a zero, which a lost block would look like
    whole = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(whole) - 1))
    whole[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(whole)
    with pytest.raises(InvalidInput) as caught:
        read(path)
    assert caught.value.reason == "JournalDamaged"
    assert "Restore it from a copy" in str(caught.value)
    assert path.read_bytes() == whole  # evidence is not destroyed


@settings(deadline=None, max_examples=25)
@given(st.lists(st.binary(min_size=1, max_size=40), min_size=2, max_size=4))
def test_records_that_are_appended_together_are_cut_in_their_order(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("records") / "file"
    file, _ = RecordFile.open(path)
    file.append(*records)
    file.close()
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        found = read(path)
        assert found == records[: len(found)]
        path.write_bytes(whole[:size] + bytes(len(whole) - size))  # a file system may have grown the file before it had the bytes
        grown = read(path)
        assert grown == records[: len(grown)]
        assert len(grown) >= len(found)


def test_an_append_that_failed_closes_the_file_until_it_is_opened_again(tmp_path, monkeypatch):
    path = tmp_path / "file"
    file, _ = RecordFile.open(path)
    file.append(b"one")

    def fail(descriptor):
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(files.os, "fdatasync", fail)
    with pytest.raises(OSError):
        file.append(b"two")
    monkeypatch.undo()
    with pytest.raises(OSError):
        file.append(b"three")
    assert read(path) in ([b"one"], [b"one", b"two"])  # nobody was told about the second


def test_nobody_else_may_read_what_is_kept(tmp_path):
    write(tmp_path / "file", [b"x"])
    write_atomically(tmp_path / "document", b"y")
    directory = files.private_directory(tmp_path / "private")
    assert [os.stat(path).st_mode & 0o077 for path in (tmp_path / "file", tmp_path / "document", directory)] == [0, 0, 0]


def test_a_replaced_file_has_the_old_bytes_or_the_new(tmp_path, monkeypatch):
    path = tmp_path / "document"
    write_atomically(path, b"old")

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_directory_has_one_user_at_a_time(tmp_path):
    lock = DirectoryLock(tmp_path, reason="Busy")
    with pytest.raises(Refused) as caught:
        DirectoryLock(tmp_path, reason="Busy")
    assert caught.value.reason == "Busy"
    lock.release()
    DirectoryLock(tmp_path, reason="Busy").release()


@pytest.mark.parametrize("record", [b"", bytes(files.MAX_RECORD + 1)])
def test_records_without_a_sensible_size_are_a_programming_error(tmp_path, record):
    file, _ = RecordFile.open(tmp_path / "file")
    with pytest.raises(ValueError):
        file.append(record)
    file.close()
