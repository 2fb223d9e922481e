"""Processes by identity, not by number: a pid alone may be somebody else's by the time we signal it.

A process is named by its pid and its start time (field 22 of /proc/PID/stat); a pidfd holds on to it between the check and the signal.
"""

import dataclasses
import os
import pathlib
import select
import signal


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process of this boot of this machine."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> "Process":
        """Identify the process that has this pid now. Raises ProcessLookupError."""
        return cls(pid=pid, started=_start_time(pid))

    def alive(self) -> bool:
        """Tell whether this very process runs; a zombie does not."""
        try:
            return _start_time(self.pid) == self.started and _state(self.pid) != "Z"
        except ProcessLookupError:
            return False

    def kill(self, timeout: float) -> bool:
        """Kill it and wait; True when it is gone."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            if not self.alive():
                return True
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            return bool(poll.poll(timeout * 1000))
        except ProcessLookupError:
            return True
        finally:
            os.close(descriptor)


def children(pid: int) -> list[int]:
    """Return the pids of a process's children; none for a process that is gone."""
    try:
        return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def name(pid: int) -> str:
    """Return the name of a process's program, cut at 15 characters by the kernel; empty for a process that is gone."""
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def in_namespace(kind: str, identity: str) -> dict[int, int]:
    """Return inner pid -> host pid of all processes whose namespace of this kind is `identity` (the text of its /proc link)."""
    found = {}
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if os.readlink(entry / "ns" / kind) == identity:
                found[_inner_pid(entry)] = int(entry.name)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def namespace(pid: int, kind: str) -> str:
    """Return the identity of a process's namespace, as in_namespace takes it."""
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def _inner_pid(entry: pathlib.Path) -> int:
    for line in (entry / "status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return int(line.split()[-1])
    raise ProcessLookupError(entry.name)


def _stat_fields(pid: int) -> list[str]:
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessLookupError(pid) from error
    # The second field is the command in parentheses and may hold spaces and parentheses of its own.
    return text.rpartition(")")[2].split()


def _start_time(pid: int) -> int:
    return int(_stat_fields(pid)[19])


def _state(pid: int) -> str:
    return _stat_fields(pid)[0]
