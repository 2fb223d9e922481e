"""What up, down and status do, seen from the host."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import socket
import sys
from typing import IO

from localcluster import build, cgroups, config, containerd, layout, locks, node, pki, processes, progress, readiness, toolchain, waiting

NAMESPACES = ("--mount", "--net", "--pid", "--uts", "--ipc")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """The two processes that are the cluster: unshare on the host, and its child, process 1 inside. Killing the first ends both."""

    outer: processes.Process
    inner: processes.Process
    port: int

    def alive(self) -> bool:
        return self.inner.alive()


def up(name: str) -> pathlib.Path:
    """Start the cluster unless it runs; return its kubeconfig once the node is ready and names resolve."""
    toolchain.require_root()
    cluster = layout.Layout(name)
    with locks.held(cluster.lock):
        running = find(cluster)
        if running is None:
            toolchain.ensure_packages(toolchain.TO_RUN)
            programs = build.ensure_all()
            clear(cluster)
            try:
                running = _start(cluster, list(programs.values()))
            except BaseException:
                _end(cluster)
                raise
        else:
            progress.say(f"  cluster {name!r} runs already")
        readiness.wait(cluster, running.inner.pid, running.alive)
    return cluster.kubeconfig


def down(name: str, *, keep_logs: bool = True) -> None:
    """End the cluster and remove everything it left on disk, but its logs if wanted. Ending one that does not run is no error."""
    toolchain.require_root()
    cluster = layout.Layout(name)
    with locks.held(cluster.lock), progress.step(f"end cluster {name!r}") as step:
        if not _end(cluster):
            step.note("was not running")
        clear(cluster, keep_logs=keep_logs)


def names() -> list[str]:
    """Return the names of all clusters that were started from this checkout and not ended."""
    return sorted(record.parent.name for record in (layout.BUILD / "cluster").glob("*/record.json"))


def find(cluster: layout.Layout) -> Running | None:
    """Return the processes of a cluster that runs, or None."""
    try:
        saved = json.loads(cluster.record.read_text())
    except FileNotFoundError:
        return None
    running = Running(outer=processes.Process(**saved["outer"]), inner=processes.Process(**saved["inner"]), port=saved["port"])
    return running if running.alive() else None


def require(name: str) -> Running:
    """Return the running cluster's processes, or fail in words."""
    running = find(layout.Layout(name))
    if running is None:
        raise progress.Failure(f"cluster {name!r} does not run", next=f"python3 -m localcluster up --name {name}")
    return running


def clear(cluster: layout.Layout, *, keep_logs: bool = False) -> None:
    """Remove the state of a cluster that has ended."""
    if not cluster.directory.exists():
        return
    for entry in cluster.directory.iterdir():
        if keep_logs and entry == cluster.logs:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    if not keep_logs:
        cluster.directory.rmdir()


def _start(cluster: layout.Layout, programs: list[pathlib.Path]) -> Running:
    cluster.logs.mkdir(parents=True)
    with progress.step("keys and configuration"):
        pki.issue_all(cluster.pki)
        config.write_all(cluster)
        cgroups.create(cluster.cgroup)
    # The socket belongs to the host's network for good, also in the hands of a process inside: see go/kube/forward.go. Bound here and never
    # closed on the way, the port cannot become another cluster's.
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        port: int = listener.getsockname()[1]
        admin = config.kubeconfig(f"https://127.0.0.1:{port}", f"veilpod-{cluster.name}", "admin", cluster.pki)
        _write_private(cluster.kubeconfig, json.dumps(admin, indent=2))
        reports, report_fd = os.pipe()
        with os.fdopen(reports) as stream:
            outer = _spawn(cluster, programs, listener.fileno(), report_fd)
            os.close(report_fd)
            running = _record(cluster, outer, port)
            _follow(cluster, stream)
    return running


def _spawn(cluster: layout.Layout, programs: list[pathlib.Path], listen_fd: int, report_fd: int) -> int:
    command = ["unshare", *NAMESPACES, "--fork", "--kill-child", sys.executable, "-P", "-m", "localcluster.node"]
    command += [cluster.name, str(listen_fd), str(report_fd), *map(str, programs)]
    environment = os.environ | {"PATH": toolchain.PATH, "PYTHONPATH": str(layout.REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
    for descriptor in (listen_fd, report_fd):
        os.set_inheritable(descriptor, True)
    log = str(cluster.logs / "node.log")
    # Not subprocess: the cluster outlives this process or is ended by it, but is never waited for.
    return os.posix_spawnp(
        command[0],
        command,
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def _record(cluster: layout.Layout, outer: int, port: int) -> Running:
    """Write down who is who as soon as there is something to kill."""
    if not waiting.until(lambda: bool(processes.children(outer)), timeout=10, every=0.01):
        log = cluster.logs / "node.log"
        raise progress.Failure("the namespaces could not be made", log=log, next="are you root, with CAP_SYS_ADMIN?")
    inner = processes.children(outer)
    running = Running(outer=processes.Process.of(outer), inner=processes.Process.of(inner[0]), port=port)
    _write_private(cluster.record, json.dumps(dataclasses.asdict(running)))
    build.link(cluster.directory / "containerd.sock", pathlib.Path(containerd.socket_of(inner[0])))
    return running


def _follow(cluster: layout.Layout, reports: IO[str]) -> None:
    for phase in node.PHASES:
        with progress.step({"namespaces": "namespaces, mounts, network", "api": "API server", "ready": "components"}.get(phase, phase)):
            said = reports.readline().split()
            if said == [phase]:
                continue
            component = said[1] if said[:1] == ["failed"] else "node"
            raise progress.Failure(
                f"{component} died or did not become ready",
                log=cluster.logs / f"{component}.log",
                next=f"read {cluster.logs}/, then run up again: it starts from nothing",
            )


def _end(cluster: layout.Layout) -> bool:
    """Kill the tree, wait until its last process is gone, remove the cgroups. True if there was something to kill."""
    running = find(cluster)
    if running is not None:
        inside = processes.namespace(running.inner.pid, "pid")
        # unshare --kill-child: the kernel kills process 1 with its parent, and with process 1 the whole pid namespace.
        if not running.outer.kill(30) or not running.inner.kill(30) or not _emptied(inside):
            raise progress.Failure(f"processes of {cluster.name!r} do not end", next="look for state D in ps axo pid,stat,comm")
        # A test starts and ends its cluster in one process: the dead child is then ours to collect.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(running.outer.pid, 0)
    cluster.record.unlink(missing_ok=True)
    if left := cgroups.remove(cluster.cgroup):
        raise progress.Failure(f"cannot remove cgroup {left[0]}", next="run down again in a moment")
    return running is not None


def _emptied(pid_namespace: str, timeout: float = 30) -> bool:
    return waiting.until(lambda: not processes.in_namespace("pid", pid_namespace), timeout=timeout)


def _write_private(path: pathlib.Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(text + "\n")
    temporary.replace(path)
