"""One good manifest of each kind, and how to offer variants of it and of its status to a real API server."""

import copy
import datetime
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.conftest import Cluster

Manifest = dict[str, Any]

SPEC: Manifest = {
    "program": {"image": "registry.example/fedavg@sha256:" + "a" * 64, "command": ["python", "-m", "fedavg"]},
    "roles": [{"name": "hub", "args": ["aggregate"]}, {"name": "site", "replicas": 2, "args": ["train"]}],
    "topology": {"type": "Star", "hub": "hub", "ports": [9092]},
    "inputs": [
        {"dataset": "wdbc-north", "to": {"role": "site", "index": 0}, "path": "train.csv"},
        {"dataset": "wdbc-south", "to": {"role": "site", "index": 1}, "path": "train.csv"},
    ],
    "result": {"from": "hub", "recipient": "veil1" + "A" * 1622},
    "payment": {"budget": "0.03", "perServer": "0.01"},
    "quorum": {"role": "site", "min": 2},
}
TASK_ID = "0x" + "ab" * 32
ACCOUNTS = ("0x" + "0A" * 20, "0x" + "Bb" * 20)
ASSIGNMENT: Manifest = {
    "taskId": TASK_ID,
    "index": 1,
    "role": "site",
    "node": 3,
    "requester": ACCOUNTS[0],
    "specHash": TASK_ID,
    "sandboxClassName": "standard",
    "task": "{}",
}
CHANNEL: Manifest = {
    "channelId": TASK_ID,
    "a": ACCOUNTS[0],
    "b": ACCOUNTS[1],
    "asset": "0x" + "0" * 40,
    "lane": 2**48 - 1,
    "challengePeriod": 3600,
    "penaltyBps": 0,
    "session": 1,
    "deposit": "1000000000000000",
    "peerDeposit": "1000000000000000",
    "assignment": "ta-abababababababab-1",
    "peerIndex": 0,
}
DATASET: Manifest = {"dataset": "wdbc-north", "digest": "sha256:" + "c" * 64, "size": 1 << 33, "owner": ACCOUNTS[1]}


def manifest(kind: str, name: str, spec: Manifest) -> Manifest:
    return {"apiVersion": "veilpod.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def changed(spec: Manifest, path: str, value: Any) -> Manifest:
    """Return a copy with one field set, or removed for None."""
    copied = copy.deepcopy(spec)
    *parents, last = (int(key) if key.isdigit() else key for key in path.split("."))
    node: Any = copied
    for key in parents:
        node = node[key] if isinstance(key, int) else node.setdefault(key, {})
    if value is None:
        del node[last]
    else:
        node[last] = value
    return copied


def dry_run(cluster: Cluster, document: Manifest) -> tuple[Manifest | None, str]:
    """Offer a manifest to the API server: what it would store, or its refusal."""
    result = cluster.run("create", "--dry-run=server", "--output=json", "--filename=-", stdin=json.dumps(document))
    return (json.loads(result.stdout), "") if result.returncode == 0 else (None, result.stderr)


def condition(kind: str, status: str = "True", reason: str = "Observed") -> Manifest:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": kind, "status": status, "reason": reason, "message": "", "lastTransitionTime": now, "observedGeneration": 1}


class Status:
    """Writes an object's status the way an operator does: a merge patch that replaces the list of conditions."""

    def __init__(self, cluster: Cluster, kind: str, name: str) -> None:
        self.cluster, self.target = cluster, (kind, name)

    def patch(self, *conditions: str, **fields: Any) -> str:
        """Return the API server's refusal, or nothing."""
        status = fields | ({"conditions": [condition(*item.split("=")) for item in conditions]} if conditions else {})
        arguments = ("patch", *self.target, "--subresource=status", "--type=merge", "--patch", json.dumps({"status": status}))
        result = self.cluster.run(*arguments)
        return "" if result.returncode == 0 else result.stderr


def maker(cluster: Cluster, request: pytest.FixtureRequest) -> Callable[[str, Manifest], Status]:
    """Give a function that creates an object which is gone after the test."""

    def create(kind: str, spec: Manifest) -> Status:
        name = request.node.originalname.replace("_", "-")[:60].strip("-")
        cluster.kubectl("create", "--filename=-", stdin=json.dumps(manifest(kind, name, spec)))
        request.addfinalizer(lambda: cluster.kubectl("delete", kind, name))
        return Status(cluster, kind, name)

    return create
