"""The sandbox's memory volumes: verified inputs in, output out, everything wiped at the end (paper steps 6, 8, 10).

The program runs as the same user in its own container and may have left anything in its output, so nothing is followed: no link, no
device, no path that leads elsewhere.
"""

import contextlib
import errno
import io
import itertools
import os
import pathlib
import shutil
import stat
from collections.abc import Iterable, Iterator

from veilpod.core.result import MAX_PATH, Entry
from veilpod.errors import Refused

_ZEROS = bytes(1 << 20)
_MAX_FILES = 100_000  # names in the output, of whatever they name
HIDDEN = ".end"


class InputFile:
    """One input while it is being written. It appears under its path by `publish` alone."""

    def __init__(self, root: pathlib.Path, path: str) -> None:
        self._final = root / path
        self._final.parent.mkdir(parents=True, exist_ok=True)
        self._part = self._final.with_name(self._final.name + ".part")
        self._file = open(self._part, "xb", buffering=0)  # noqa: SIM115 - closed by publish or discard

    def write(self, data: bytes) -> None:
        """Append plaintext."""
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def publish(self) -> None:
        """Let the program see it, read-only."""
        os.fchmod(self._file.fileno(), 0o444)
        self._file.close()
        if self._final.exists():
            raise Refused("InputRefused", "two inputs have one path")
        self._part.rename(self._final)

    def discard(self) -> None:
        """Wipe what was written."""
        self._file.close()
        if self._part.exists():
            _wipe_file(self._part)


def collect(root: pathlib.Path, *, limit: int) -> tuple[list[Entry], list[str]]:
    """Read the output: regular files, and the names of everything else.

    Raises Refused("ResultTooLarge") above `limit` bytes, for too many names and for paths that are too long; Refused("ProgramFailed") for
    what its owner may not read.
    """
    entries: list[Entry] = []
    left_out: list[str] = []
    total = seen = 0
    for directory, names, files, descriptor in os.fwalk(root, follow_symlinks=False, onerror=_unreadable):
        relative = pathlib.PurePosixPath(directory).relative_to(root)
        seen += len(names) + len(files)
        if seen > _MAX_FILES:
            raise Refused("ResultTooLarge", f"a result has at most {_MAX_FILES} files, directories and links")
        # Looked at before the walk goes deeper: nesting has no end of its own.
        longest = max((len(os.fsencode(name)) for name in (*names, *files)), default=0)
        if len(os.fsencode(str(relative))) + 1 + longest > MAX_PATH:
            raise Refused("ResultTooLarge", f"a path in a result has at most {MAX_PATH} bytes")
        left_out += [str(relative / name) for name in names if not _is(stat.S_ISDIR, name, descriptor)]
        for name in files:
            path = str(relative / name)
            if not _is(stat.S_ISREG, name, descriptor):
                left_out.append(path)
                continue
            data, executable = _read(name, descriptor, limit - total)
            total += len(data)
            entries.append(Entry(path=path, data=data, executable=executable))
    return entries, sorted(left_out)


def wipe(roots: Iterable[pathlib.Path]) -> None:
    """Overwrite every file with zeros and remove everything. The volumes are memory: freed pages are zeroed by the kernel before reuse.

    A program may have nested directories without end and closed them to itself: each is opened, its own directories are moved up to the
    root, and it is removed, so that no path here is ever longer than two names.
    """
    for root in roots:
        numbers, before = itertools.count(), set[str]()
        # What stays although it was tried ends with the pod.
        while root.is_dir() and (names := set(os.listdir(root))) != before:
            for name in names:
                with contextlib.suppress(OSError):
                    _remove(root, root / name, numbers)
            before = names


def install(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copy the launcher into the program's memory volume."""
    part = target.with_name(target.name + ".part")
    shutil.copyfile(source, part)
    part.chmod(0o555)
    part.rename(target)


def hide_termination_message(directory: pathlib.Path) -> None:
    """Make the file on which the kubelet mounts the program's termination message, behind a door that the program cannot open.

    That file rests on the node's disk and its content becomes part of the pod's status, so it must not be the program's to write. The
    kubelet mounts it wherever the manifest says; the program has this volume read-only, so it cannot open the directory again.
    """
    hidden = directory / HIDDEN
    hidden.mkdir(mode=0o700)
    (hidden / "message").touch(mode=0o600)
    hidden.chmod(0)


def _remove(root: pathlib.Path, path: pathlib.Path, numbers: Iterator[int]) -> None:
    if not stat.S_ISDIR(path.lstat().st_mode):
        _wipe_file(path)
        return
    path.chmod(0o700)
    for child in path.iterdir():
        if stat.S_ISDIR(child.lstat().st_mode):
            child.chmod(0o700)  # a directory that may not be written does not move
            child.rename(root / f".wiped-{next(numbers)}")
        else:
            _wipe_file(child)
    path.rmdir()


def _unreadable(error: OSError) -> None:
    raise Refused("ProgramFailed", "the output holds what its owner may not read") from error


def _is(kind: object, name: str, descriptor: int) -> bool:
    try:
        mode = os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode
    except OSError:
        return False
    return bool(kind(mode)) if callable(kind) else False


def _read(name: str, descriptor: int, limit: int) -> tuple[bytes, bool]:
    # O_NONBLOCK: between looking and opening, a file may have become a pipe.
    try:
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=descriptor)
    except OSError as error:
        _unreadable(error)
        raise
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise Refused("ProgramFailed", "the output changed while it was read")
        if status.st_size > limit:
            raise Refused("ResultTooLarge", "the output is larger than the task allows")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise Refused("ResultTooLarge", "the output is larger than the task allows")
    return data, bool(status.st_mode & 0o100)


def _wipe_file(path: pathlib.Path) -> None:
    """Overwrite and remove; what cannot be overwritten is at least removed."""
    with contextlib.suppress(OSError):
        if stat.S_ISREG(path.lstat().st_mode):
            path.chmod(0o600)
            handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(handle, "wb", buffering=0) as file:
                _overwrite(file)
    path.unlink()


def _overwrite(file: io.FileIO) -> None:
    """Write zeros where there is something: filling holes would take memory that this process has not got."""
    status = os.fstat(file.fileno())
    end, left = 0, status.st_blocks * 512
    while end < status.st_size and left > 0:
        begin, end = _next_data(file.fileno(), end, status.st_size)
        file.seek(begin)
        while begin < end and left > 0:
            written = file.write(_ZEROS[: min(end - begin, left)])
            begin, left = begin + written, left - written


def _next_data(handle: int, offset: int, size: int) -> tuple[int, int]:
    """Where the next data begin and end. gVisor's files end in no hole, so what makes no progress is all that is left."""
    try:
        begin = os.lseek(handle, offset, os.SEEK_DATA)
        end = os.lseek(handle, begin, os.SEEK_HOLE)
    except OSError as error:
        return (size, size) if error.errno == errno.ENXIO else (offset, size)
    return (begin, end) if offset <= begin < end else (offset, size)
