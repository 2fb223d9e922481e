"""One process at a time, on this machine."""

import contextlib
import fcntl
import pathlib
from collections.abc import Iterator


@contextlib.contextmanager
def held(path: pathlib.Path) -> Iterator[None]:
    """Wait for a lock file, and hold it while the body runs; who dies lets go of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
