"""Who used processors and memory: cgroups by name, on version 1 and 2, and the whole machine."""

import os
import pathlib

ROOT = pathlib.Path("/sys/fs/cgroup")
PROC_STAT = pathlib.Path("/proc/stat")
_TICKS = os.sysconf("SC_CLK_TCK")


def cgroup(parent: str, name: str, root: pathlib.Path = ROOT, *, counting: str = "cpuacct") -> pathlib.Path:
    """Return the directory of the cgroup `name` somewhere below `parent`, where its CPU is counted, or its `memory`.

    Raises FileNotFoundError.
    """
    hierarchy = root if (root / "cgroup.controllers").exists() else root / counting
    for directory, children, _ in os.walk(hierarchy / parent.lstrip("/")):
        if name in children:
            return pathlib.Path(directory, name)
    raise FileNotFoundError(f"no cgroup {name} below {hierarchy}{parent}")


def cpu_seconds(directory: pathlib.Path) -> float:
    """CPU seconds that a cgroup and all below it have used."""
    if (directory / "cpuacct.usage").exists():
        return int((directory / "cpuacct.usage").read_text()) / 1e9
    counters = dict(line.split() for line in (directory / "cpu.stat").read_text().splitlines())
    return int(counters["usage_usec"]) / 1e6


def memory_bytes(directory: pathlib.Path) -> int:
    """Bytes that a cgroup and all below it hold and the kernel could not drop at once: what Kubernetes calls the working set."""
    old = directory / "memory.usage_in_bytes"
    used, inactive = (old, "total_inactive_file") if old.exists() else (directory / "memory.current", "inactive_file")
    counters = dict(line.split() for line in (directory / "memory.stat").read_text().splitlines())
    return max(int(used.read_text()) - int(counters[inactive]), 0)


def machine_seconds(stat: pathlib.Path = PROC_STAT) -> float:
    """CPU seconds that all of this machine has used, or had taken from it by its host."""
    fields = [int(field) for field in stat.read_text().partition("\n")[0].split()[1:9]]
    user, nice, system, _idle, _waiting, *rest = fields
    return (user + nice + system + sum(rest)) / _TICKS
