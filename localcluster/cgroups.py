"""The cluster's cgroup: made in every controller before the start, removed at the end. Works on version 1, version 2 and a mix of both."""

import pathlib

from localcluster import waiting

ROOT = pathlib.Path("/sys/fs/cgroup")


def create(path: str, root: pathlib.Path = ROOT) -> None:
    """Make the cgroup in every hierarchy, with all controllers that the machine lends."""
    for hierarchy in _hierarchies(root):
        directory = hierarchy / path.lstrip("/")
        directory.mkdir(exist_ok=True)
        if (hierarchy / "cgroup.subtree_control").exists():
            _delegate(hierarchy)
        _inherit_cpuset(hierarchy, directory)


def remove(path: str, root: pathlib.Path = ROOT, timeout: float = 10.0) -> list[pathlib.Path]:
    """Remove the cgroup and all below it; return what could not be removed in time."""

    def left() -> list[pathlib.Path]:
        return [directory for hierarchy in _hierarchies(root) if (directory := hierarchy / path.lstrip("/")).exists()]

    def removed() -> bool:
        for directory in left():
            _remove_tree(directory)
        return not left()

    waiting.until(removed, timeout=timeout)
    return left()


def _hierarchies(root: pathlib.Path) -> list[pathlib.Path]:
    if (root / "cgroup.controllers").exists():
        return [root]
    # Symbolic links (cpu -> cpu,cpuacct) name a hierarchy a second time.
    return [entry for entry in sorted(root.iterdir()) if entry.is_dir() and not entry.is_symlink() and (entry / "cgroup.procs").exists()]


def _delegate(hierarchy: pathlib.Path) -> None:
    """Version 2: a controller exists below only if it is switched on above, one by one since one may be unavailable."""
    for controller in (hierarchy / "cgroup.controllers").read_text().split():
        try:
            (hierarchy / "cgroup.subtree_control").write_text(f"+{controller}")
        except OSError:
            continue


def _inherit_cpuset(hierarchy: pathlib.Path, directory: pathlib.Path) -> None:
    """Version 1: a new cpuset is empty, and nothing can run in it."""
    for setting in ("cpuset.cpus", "cpuset.mems"):
        if (hierarchy / setting).exists() and (directory / setting).exists() and not (directory / setting).read_text().strip():
            (directory / setting).write_text((hierarchy / setting).read_text())


def _remove_tree(directory: pathlib.Path) -> None:
    for child in directory.iterdir():
        if child.is_dir():
            _remove_tree(child)
    try:
        directory.rmdir()
    except OSError:
        # Still busy: the last process was killed a moment ago. The caller tries again.
        return
