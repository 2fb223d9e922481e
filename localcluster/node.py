"""The node: process 1 of the cluster's namespaces.

`lifecycle` starts it under ``unshare --mount --net --pid --uts --ipc --fork --kill-child``. It lays out the file system, brings up the
network, starts the components in order and then keeps them running, as an init system would: one that dies after the start is started
again. Killing this one process ends everything in the namespaces, and the kernel takes mounts and interfaces away with them.

What happens is told, one word a line, to the pipe that `lifecycle` reads: phases as they are done, or ``failed COMPONENT``.
"""

import json
import os
import pathlib
import resource
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable

from localcluster import components, layout, waiting

START_TIMEOUT = 180.0
RESTART_DELAY = 1.0
OPEN_FILES = 20000
PHASES = ("namespaces", "etcd", "api", "manifests", "ready")

_BIN = layout.INSIDE_BIN


class Died(Exception):
    """A component ended during the start, or did not become ready in time."""


class Supervisor:
    """Starts components, notices their deaths, and says in a file which process is which."""

    def __init__(self, record: pathlib.Path, logs: pathlib.Path, inherited: tuple[int, ...]) -> None:
        self._record = record
        self._logs = logs
        self._inherited = inherited
        self._running: dict[int, tuple[components.Component, subprocess.Popen[bytes]]] = {}
        self._restarts: dict[str, int] = {}

    def start(self, component: components.Component) -> None:
        environment = {"PATH": f"{_BIN}/kube:{_BIN}/runtime:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin", "HOME": "/root"}
        with (self._logs / f"{component.name}.log").open("ab") as log:
            process = subprocess.Popen(
                component.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd="/",
                pass_fds=self._inherited if component.name == "forward" else (),
            )
        self._running[process.pid] = (component, process)
        self._restarts.setdefault(component.name, 0)
        self._write()

    def wait_for(self, condition: Callable[[], bool], name: str) -> None:
        """Wait for a component's readiness. Raises Died when any component ends before, or when time is up."""

        def ready() -> bool:
            if dead := self._reap():
                raise Died(dead[0].name)
            return condition()

        if not waiting.until(ready, timeout=START_TIMEOUT):
            raise Died(name)

    def keep(self) -> None:
        """Start again what dies, for ever."""
        while True:
            for component in self._reap(block=True):
                waiting.pause(RESTART_DELAY)
                self._restarts[component.name] += 1
                self.start(component)

    def _reap(self, *, block: bool = False) -> list[components.Component]:
        """Collect the dead: components, and orphans of theirs that became ours."""
        dead: list[components.Component] = []
        while True:
            try:
                pid, _ = os.waitpid(-1, 0 if block and not dead else os.WNOHANG)
            except ChildProcessError:
                return dead
            if pid == 0:
                return dead
            if entry := self._running.pop(pid, None):
                dead.append(entry[0])

    def _write(self) -> None:
        known = {component.name: {"pid": pid, "restarts": self._restarts[component.name]} for pid, (component, _) in self._running.items()}
        temporary = self._record.with_suffix(".new")
        temporary.write_text(json.dumps(known))
        temporary.replace(self._record)


def main(name: str, listen_fd: int, report_fd: int, programs: list[str]) -> None:
    """Be process 1 until killed; return only when the start failed."""
    report = os.fdopen(report_fd, "w", buffering=1)
    cluster = layout.Layout(name)
    try:
        prepare_mounts(cluster, [pathlib.Path(program) for program in programs])
        prepare_network(name)
    except (OSError, subprocess.CalledProcessError) as error:
        print(error, getattr(error, "stderr", ""), flush=True)
        print("failed node", file=report)
        return
    limit = min(OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    print("namespaces", file=report)
    inside = pathlib.Path(layout.INSIDE)
    supervisor = Supervisor(inside / "components.json", inside / "logs", (listen_fd,))
    try:
        start_all(supervisor, listen_fd, lambda phase: print(phase, file=report))
    except Died as death:
        print(f"failed {death}", file=report)
        return
    report.close()
    supervisor.keep()


def start_all(supervisor: Supervisor, listen_fd: int, report: Callable[[str], None]) -> None:
    """Start every component, waiting only where the next one would fail without the one before."""
    supervisor.start(components.etcd())
    supervisor.start(components.containerd())
    supervisor.wait_for(lambda: _listens(2379), "etcd")
    report("etcd")
    supervisor.start(components.apiserver())
    supervisor.start(components.forwarder(listen_fd))
    supervisor.wait_for(api_ready(), "kube-apiserver")
    report("api")
    apply_manifests()
    report("manifests")
    for component in components.after_apiserver():
        supervisor.start(component)
    supervisor.wait_for(lambda: os.path.exists(layout.CONTAINERD_SOCKET), "containerd")
    report("ready")


def prepare_mounts(cluster: layout.Layout, programs: list[pathlib.Path]) -> None:
    """Give this mount namespace the node's /var and /run, and every bind mount the cluster needs from the host."""
    # Volumes must propagate between the kubelet, containerd and pods, and never to the host: unshare made everything private before.
    _mount("--make-rshared", "/")
    sources = {f"bin/{path.name.partition('-')[0]}": path for path in programs}
    sources |= {"bin/gvisor": layout.SOURCES / "gvisor", "manifests": layout.SOURCES / "manifests", "logs": cluster.logs}
    for target, source in sources.items():
        (cluster.private / target).mkdir(parents=True, exist_ok=True)
        _mount("--bind", str(source), str(cluster.private / target))
    for directory in ("lib", "log", "tmp", "cache"):
        (cluster.node / directory).mkdir(exist_ok=True)
    for name, target in {"run": "/run", "lock": "/run/lock"}.items():
        (cluster.node / name).symlink_to(target)
    _mount("--rbind", str(cluster.node), "/var")
    # A peer group of its own: else each mount below /var would appear a second time below the checkout.
    _mount("--make-rprivate", "/var")
    _mount("--make-rshared", "/var")
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    _mount("--make-shared", "/run")
    os.makedirs("/run/lock")
    # A new pid namespace needs its own /proc. /sys stays: a new one would hide the cgroups.
    _mount("-t", "proc", "proc", "/proc")


def prepare_network(name: str) -> None:
    """Bring up a network of one node that leads nowhere."""
    socket.sethostname(f"veilpod-{name}")
    _run("ip", "link", "set", "lo", "up")
    # On lo, because not every kernel has the dummy driver.
    _run("ip", "address", "add", f"{layout.NODE_ADDRESS}/32", "dev", "lo")
    # The node's own connections to services: the kernel wants a route before kube-proxy's rules can change the destination.
    _run("ip", "route", "add", layout.SERVICE_NETWORK, "dev", "lo", "src", layout.NODE_ADDRESS)
    # A pod cannot borrow another's address to get past a policy.
    for setting in ("ip_forward", "conf/all/rp_filter", "conf/default/rp_filter"):
        pathlib.Path("/proc/sys/net/ipv4", setting).write_text("1")


def api_ready() -> Callable[[], bool]:
    """Return a check that the API server answers /readyz with a certificate of ours."""
    tls = ssl.create_default_context(cafile=f"{layout.INSIDE_PKI}/ca.crt")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls))

    def check() -> bool:
        try:
            with opener.open(f"https://{layout.NODE_ADDRESS}:{layout.API_PORT}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    return check


def apply_manifests() -> None:
    """Create what the cluster is made of besides programs: permissions, RuntimeClass, DNS, StorageClass."""
    command = [
        f"{_BIN}/kube/kubectl",
        f"--kubeconfig={layout.INSIDE_ETC}/admin.kubeconfig",
        "apply",
        "-f",
        str(layout.INSIDE / "manifests"),
    ]
    with open(f"{layout.INSIDE_LOGS}/manifests.log", "ab") as log:
        process = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=START_TIMEOUT)
    if process.returncode != 0:
        raise Died("manifests")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _mount(*arguments: str) -> None:
    _run("mount", *arguments)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
