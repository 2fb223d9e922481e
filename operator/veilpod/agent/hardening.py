"""What a process does to itself before it holds keys, and the marker that makes a second life impossible.

A native sidecar is restarted after a crash even with `restartPolicy: Never`, and a reborn agent would make new keys under an old
statement. The marker lies in a memory volume, which survives the container but not the pod: who finds it exits at once.
"""

import contextlib
import ctypes
import os
import pathlib
import resource
import signal

from veilpod.core.tiers import Kernel, Marks, recognise
from veilpod.errors import Refused
from veilpod.net.process import keep_memory_private

REBORN_EXIT = 30
_SYSLOG_READ_ALL = 3
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4


def harden() -> dict[str, bool]:
    """Forbid core dumps and tracing, and lock memory where the container may. Returns what holds, for the log."""
    keep_memory_private()
    # With a small limit mlockall would make later allocations fail. A Guaranteed pod is not swapped anyway.
    unlimited = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
    locked = unlimited and ctypes.CDLL(None).mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0
    return {"dumpable": False, "cores": False, "locked": locked}


def be_born(marker: pathlib.Path) -> None:
    """Leave the marker. Raises Refused when an earlier life left it: with that life's reason, or "AgentRestarted"."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except FileExistsError as error:
        if word := marker.read_text():
            raise Refused(word, "this pod's first agent refused to begin, and nothing has changed that") from error
        raise Refused("AgentRestarted", "this pod's agent has lived before: its keys are gone, the pod is a dead incarnation") from error


def refuse_for_ever(marker: pathlib.Path, word: str) -> None:
    """Have every later life of this pod end with the same word: the first one's end may be seen by nobody."""
    marker.write_text(word)


def find_kernel() -> Kernel:
    """Look from inside at what this process runs on."""
    buffer = ctypes.create_string_buffer(1 << 16)
    size = ctypes.CDLL(None, use_errno=True).klogctl(_SYSLOG_READ_ALL, buffer, len(buffer))  # closed to most processes of a plain kernel
    command_line = ""
    with contextlib.suppress(OSError):
        command_line = pathlib.Path("/proc/cmdline").read_text()
    return recognise(Marks(log=buffer.raw[: max(size, 0)], command_line=command_line))


def end_on_sigterm() -> None:
    """Process 1 of a container has no default for SIGTERM: without this, ending a pod would take its whole grace period."""

    def end(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)


def say_last_word(path: pathlib.Path | None, word: str) -> None:
    """Write the one word of the termination message."""
    if path is not None:
        with contextlib.suppress(OSError):  # outside Kubernetes there is none
            path.write_text(word)
