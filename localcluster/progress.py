"""What the tool prints: one line per step with its duration, and a failure that says what died, why, and what to try."""

import contextlib
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

TAIL_LINES = 12


class Failure(Exception):
    """Something a person has to look at: `what` happened, the end of `log` if there is one, and what to try `next`."""

    def __init__(self, what: str, *, next: str = "", log: pathlib.Path | None = None) -> None:  # noqa: A002
        super().__init__(what)
        self.next = next
        self.log = log

    def __str__(self) -> str:
        lines = [str(self.args[0])]
        if self.log is not None:
            lines += [f"the end of {self.log}:", *(f"    {line}" for line in tail(self.log))]
        if self.next:
            lines.append(f"next: {self.next}")
        return "\n".join(lines)


class Step:
    """A step under way. `cached` and `note` say more than its duration does."""

    def __init__(self) -> None:
        self.detail = ""

    def cached(self) -> None:
        self.detail = "cached"

    def note(self, text: str) -> None:
        self.detail = text


@contextlib.contextmanager
def step(title: str, *, since: float | None = None) -> Iterator[Step]:
    """Print the title, then how long the body took, or how long ago `since` (monotonic) was."""
    print(f"  {title:<44}", end="", flush=True)
    begin = time.monotonic() if since is None else since
    current = Step()
    try:
        yield current
    except BaseException:
        print(" failed", flush=True)
        raise
    detail = f"  {current.detail}" if current.detail else ""
    print(f"{time.monotonic() - begin:7.1f} s{detail}", flush=True)


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def complain(failure: Failure) -> None:
    """Print a failure where failures belong."""
    print(f"\n{failure}", file=sys.stderr, flush=True)


def run(main: Callable[[], int]) -> NoReturn:
    """End the process with what `main` returns; with 1 and the failure in words when it raises one, with 130 when it is interrupted."""
    try:
        sys.exit(main())
    except Failure as failure:
        complain(failure)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def tail(path: pathlib.Path, lines: int = TAIL_LINES) -> list[str]:
    """Return the last lines of a file that may be large or absent."""
    try:
        with path.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - 16384))
            return stream.read().decode(errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        return ["(no such file)"]
