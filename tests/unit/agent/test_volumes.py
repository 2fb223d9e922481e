"""The program may leave anything in its output: nothing is followed, everything is wiped."""

import os
import pathlib

import pytest

from veilpod.agent import volumes
from veilpod.errors import Refused


@pytest.fixture
def out(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "out").mkdir()
    (tmp_path / "secret").write_bytes(b"not the program's")
    return tmp_path / "out"


def test_files_are_collected_with_their_paths_and_modes(out: pathlib.Path) -> None:
    (out / "a" / "b").mkdir(parents=True)
    (out / "a" / "b" / "weights").write_bytes(b"w")
    (out / "run.sh").write_bytes(b"#!")
    (out / "run.sh").chmod(0o755)
    entries, left_out = volumes.collect(out, limit=100)
    assert sorted((entry.path, entry.data, entry.executable) for entry in entries) == [
        ("a/b/weights", b"w", False),
        ("run.sh", b"#!", True),
    ]
    assert left_out == []


def test_links_pipes_and_sockets_are_named_and_left_out(out: pathlib.Path) -> None:
    (out / "link").symlink_to(out.parent / "secret")
    (out / "directory").symlink_to(out.parent)
    os.mkfifo(out / "pipe")
    (out / "model").write_bytes(b"m")
    entries, left_out = volumes.collect(out, limit=100)
    assert [entry.path for entry in entries] == ["model"]
    assert left_out == ["directory", "link", "pipe"]


@pytest.mark.parametrize("sizes", [[101], [60, 60]])
def test_too_much_output_is_refused(out: pathlib.Path, sizes: list[int]) -> None:
    for number, size in enumerate(sizes):
        (out / str(number)).write_bytes(bytes(size))
    with pytest.raises(Refused) as refused:
        volumes.collect(out, limit=100)
    assert refused.value.reason == "ResultTooLarge"


def test_an_input_appears_when_it_is_verified_and_read_only(tmp_path: pathlib.Path) -> None:
    file = volumes.InputFile(tmp_path, "train/data.csv")
    file.write(b"rows")
    assert not (tmp_path / "train" / "data.csv").exists()
    file.publish()
    assert (tmp_path / "train" / "data.csv").read_bytes() == b"rows"
    assert (tmp_path / "train" / "data.csv").stat().st_mode & 0o777 == 0o444
    second = volumes.InputFile(tmp_path, "train/data.csv")
    with pytest.raises(Refused):
        second.publish()


def test_an_input_that_is_discarded_leaves_nothing(tmp_path: pathlib.Path) -> None:
    file = volumes.InputFile(tmp_path, "data.csv")
    file.write(b"rows")
    file.discard()
    assert list(tmp_path.iterdir()) == []


def test_wiping_overwrites_and_removes_everything_and_follows_nothing(out: pathlib.Path) -> None:
    (out / "a" / "b").mkdir(parents=True)
    (out / "a" / "b" / "data").write_bytes(b"plaintext")
    (out / "a" / "b" / "data").chmod(0o444)
    (out / "link").symlink_to(out.parent / "secret")
    (out / "directory").symlink_to(out.parent)
    held = (out / "a" / "b" / "data").open("rb")
    volumes.wipe([out, out.parent / "absent"])
    assert list(out.iterdir()) == []
    assert held.read() == bytes(9)  # the pages themselves, not only the name
    held.close()
    assert (out.parent / "secret").read_bytes() == b"not the program's"


def test_the_termination_message_lies_behind_a_closed_door(tmp_path: pathlib.Path) -> None:
    volumes.hide_termination_message(tmp_path)
    assert (tmp_path / volumes.HIDDEN).stat().st_mode & 0o777 == 0
    if os.getuid() == 0:
        assert (tmp_path / volumes.HIDDEN / "message").is_file()


def test_the_launcher_is_installed_whole_and_executable(tmp_path: pathlib.Path) -> None:
    (tmp_path / "source").write_bytes(b"\x7fELF")
    volumes.install(tmp_path / "source", tmp_path / "launch")
    assert (tmp_path / "launch").read_bytes() == b"\x7fELF"
    assert (tmp_path / "launch").stat().st_mode & 0o777 == 0o555
