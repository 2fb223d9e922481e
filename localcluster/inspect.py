"""Looking into a running cluster, and the one switch that tests turn."""

import subprocess

from localcluster import components, layout, lifecycle, processes, progress, readiness, waiting

NETPOL_TABLE = ("nft", "list", "table", "inet", "veilpod_netpol")


def status(name: str) -> int:
    """Print what runs; 0 if everything does, 3 if the cluster does not run (as systemctl says it)."""
    cluster = layout.Layout(name)
    running = lifecycle.find(cluster)
    if running is None:
        progress.say(f"cluster {name!r} does not run")
        return 3
    outside = processes.in_namespace("pid", processes.namespace(running.inner.pid, "pid"))
    progress.say(f"cluster {name!r} runs; KUBECONFIG={cluster.kubeconfig}; NetworkPolicy {netpol_state(cluster)}")
    missing = 0
    for component, entry in readiness.components_of(cluster).items():
        pid = outside.get(entry["pid"])
        missing += pid is None
        restarts = f"  started again {entry['restarts']} times" if entry["restarts"] else ""
        progress.say(f"  {component:<24} {'pid ' + str(pid) if pid else 'not running':<14}{restarts}")
    return 1 if missing else 0


def netpol_state(cluster: layout.Layout) -> str:
    """Say what the switch says."""
    return "not enforced" if cluster.netpol_switch.exists() else "enforced"


def switch_netpol(name: str, *, on: bool) -> None:
    """Make the cluster enforce NetworkPolicy, or be one whose network plugin does not; return when the rules are in force, or gone."""
    cluster = layout.Layout(name)
    lifecycle.require(name)
    if on:
        cluster.netpol_switch.unlink(missing_ok=True)
    else:
        cluster.netpol_switch.touch()
    if not waiting.until(lambda: (run_inside(name, NETPOL_TABLE, quiet=True).returncode == 0) == on, timeout=30):
        raise progress.Failure("the enforcer does not follow the switch", log=cluster.logs / "netpol.log")


def dump_etcd(name: str) -> int:
    """Print every key and value of etcd's newest revision, raw."""
    pki = layout.INSIDE_PKI
    command = (
        str(layout.INSIDE_BIN / "kube" / "etcd-dump"),
        f"-endpoint={components.ETCD_ENDPOINT}",
        f"-cacert={pki}/etcd-ca.crt",
        f"-cert={pki}/etcd-client.crt",
        f"-key={pki}/etcd-client.key",
    )
    return run_inside(name, command).returncode


def execute(name: str, command: list[str]) -> int:
    """Run a command on the node; return its exit status."""
    return run_inside(name, command).returncode


def run_inside(name: str, command: tuple[str, ...] | list[str], *, quiet: bool = False) -> "subprocess.CompletedProcess[bytes]":
    """Run a command in all of the node's namespaces."""
    pid = lifecycle.require(name).inner.pid
    enter = ["nsenter", f"--target={pid}", "--mount", "--net", "--pid", "--uts", "--ipc", "--wd=/", "--"]
    output = subprocess.DEVNULL if quiet else None
    return subprocess.run([*enter, *command], stdout=output, stderr=output)
