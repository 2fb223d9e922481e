"""The program may leave anything in its output: nothing is followed, everything is wiped."""

import errno
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable

import pytest

from veilpod.agent import volumes
from veilpod.errors import Refused

SOURCE = pathlib.Path(__file__).parents[3] / "operator"


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


def nest(out: pathlib.Path, levels: int) -> None:
    """A tree that no path leads down: each directory is entered from the last."""
    here = os.open(out, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(os.open("secret", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


def test_a_tree_without_end_is_refused_and_wiped(out: pathlib.Path) -> None:
    nest(out, 3000)
    with pytest.raises(Refused) as refused:
        volumes.collect(out, limit=100)
    assert refused.value.reason == "ResultTooLarge"
    volumes.wipe([out])
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    "make", [lambda path: path.mkdir(), lambda path: path.symlink_to("x"), lambda path: path.touch()], ids=["directories", "links", "files"]
)
def test_more_names_than_a_result_may_have_are_refused(
    out: pathlib.Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[pathlib.Path], None]
) -> None:
    monkeypatch.setattr(volumes, "_MAX_FILES", 10)
    for number in range(11):
        make(out / str(number))
    with pytest.raises(Refused) as refused:
        volumes.collect(out, limit=100)
    assert refused.value.reason == "ResultTooLarge"


def test_a_hole_is_not_filled_when_it_is_wiped(out: pathlib.Path) -> None:
    with (out / "sparse").open("w+b") as file:
        file.write(b"secret")
        file.truncate(1 << 40)
        kept = os.dup(file.fileno())
    volumes.wipe([out])
    try:
        assert os.fstat(kept).st_blocks * 512 <= 1 << 20
        assert os.pread(kept, 6, 0) == bytes(6)
    finally:
        os.close(kept)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("knows", ["nothing of holes", "no end of data"])
def test_where_the_kernel_shows_no_holes_wiping_ends_all_the_same(out: pathlib.Path, monkeypatch: pytest.MonkeyPatch, knows: str) -> None:
    def seek(handle: int, offset: int, whence: int) -> int:
        if knows == "nothing of holes":
            raise OSError(errno.EINVAL, "no such whence")
        return offset if whence == os.SEEK_DATA else os.fstat(handle).st_size

    monkeypatch.setattr(os, "lseek", seek)
    with (out / "file").open("w+b") as file:
        file.write(b"secret")
        file.flush()
        kept = os.dup(file.fileno())
    (out / "empty").touch()
    volumes.wipe([out])
    try:
        assert os.pread(kept, 6, 0) == bytes(6)
    finally:
        os.close(kept)
    assert list(out.iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become the agent's user, to whom modes mean something")
def test_what_a_program_closed_to_itself_is_refused_and_wiped() -> None:
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        closed = (
            f"import os, pathlib, sys; sys.path.insert(0, {str(SOURCE)!r})\n"
            "from veilpod.agent import volumes; from veilpod.errors import Refused\n"
            f"root = pathlib.Path({name!r}); os.setuid(65532)\n"
            "(root / 'a' / 'b').mkdir(parents=True); (root / 'a' / 'b' / 'secret').write_text('x'); (root / 'file').touch(0)\n"
            "(root / 'a' / 'b').chmod(0); (root / 'a').chmod(0)\n"
            "try:\n    volumes.collect(root, limit=100)\nexcept Refused as error:\n    print(error.reason)\n"
            "volumes.wipe([root]); print(os.listdir(root))"
        )
        done = subprocess.run([sys.executable, "-c", closed], capture_output=True, text=True, check=True)
    assert done.stdout == "ProgramFailed\n[]\n"
