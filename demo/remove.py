"""Take the demo from a cluster that outlives it: tasks first (they settle), then the money's objects, then those who owned them.

Needs kubectl and helm, none of the Python packages.
"""

from demo.cluster import Cluster
from demo.parties import ADMIN_NAMESPACE, CHAIN_NAMESPACE, PARTIES, REQUESTER
from localcluster import progress

PATIENCE = 300  # seconds for a running task to be torn down and settled


def remove(cluster: Cluster) -> None:
    """Uninstall everything. Raises Failure when something does not end: its owner is left running to end it."""
    kinds = cluster.kubectl("api-resources", "--api-group=veilpod.dev", "--namespaced", "-o", "name").split()
    if kinds:
        with progress.step("tasks end and settle"):
            _delete(cluster, "computetasks", "-n", REQUESTER.name, "--all")
        with progress.step("servers, data and relays leave"):
            for party in PARTIES:
                _delete(cluster, ",".join(kinds), "-n", party.name, "--all")
    with progress.step("parties and chain"):
        for party in PARTIES:
            cluster.run("helm", "uninstall", party.name, "-n", party.name, "--ignore-not-found")
        _delete(cluster, "namespace", *(name for party in PARTIES for name in (party.name, f"{party.name}-sandboxes")), CHAIN_NAMESPACE)
    with progress.step("the cluster's part"):
        _refuse_if_used(cluster, kinds)
        cluster.run("helm", "uninstall", "veilpod", "-n", ADMIN_NAMESPACE, "--ignore-not-found", "--wait")
        _delete(cluster, "namespace", ADMIN_NAMESPACE)


def _refuse_if_used(cluster: Cluster, kinds: list[str]) -> None:
    """The kinds go with the cluster's part, and with them every object of theirs: not while somebody else has some."""
    others = cluster.kubectl("get", ",".join(kinds), "-A", "-o", "name").split() if kinds else []
    if others:
        raise progress.Failure(
            f"others on this cluster use Veilpod: {', '.join(others[:3])}{' …' if len(others) > 3 else ''}; its kinds and policies stay",
            next=f"helm uninstall veilpod -n {ADMIN_NAMESPACE}   (once nobody uses them)",
        )


def _delete(cluster: Cluster, *what: str) -> None:
    cluster.kubectl("delete", *what, "--ignore-not-found", f"--timeout={PATIENCE}s", timeout=PATIENCE + 20)
