"""Tasks as small as tasks can be: one server that computes nothing, or a star of three that sends a few megabytes to its hub."""

import json
from collections.abc import Iterable
from typing import Any

from demo import play
from demo.parties import REQUESTER
from demo.stage import Stage

PROGRAM = """
import pathlib, socket, sys, time
side, seconds = sys.argv[1], float(sys.argv[2])
out = pathlib.Path("/veilpod/out")
out.mkdir(parents=True, exist_ok=True)
(out / "done").write_text("done")
if side == "hub":
    with socket.create_server(("127.0.0.1", 9092)) as server:
        for site in [server.accept()[0] for _ in range(2)]:
            while site.recv(65536):
                pass
elif side == "site":
    while True:
        try:
            hub = socket.create_connection(("127.0.0.1", 9092))
            break
        except OSError:
            time.sleep(0.2)
    hub.sendall(bytes(2 << 20))
    time.sleep(seconds)
    hub.close()
else:
    time.sleep(seconds)
"""
# Long enough for operators that are dead half of the time; a test of deadlines is none of ours.
DEADLINES = {"schedule": "40m", "inputs": "20m", "compute": "40m", "total": "2h"}
CLASS, AGENT_CPU = "small", "100m"  # a node of two cores has room for a handful of sandboxes of the standard class, and not for twenty
PAYMENT = {"budget": "0.01", "perServer": "0.001", "perTransferMiB": "0.00001", "channelDeposit": "0.001"}


def solo(name: str, *, seconds: float = 0) -> dict[str, Any]:
    """One server, no channel."""
    return _task(name, [{"name": "solo", "replicas": 1, "args": ["solo", f"{seconds}"]}], "solo")


def star(name: str, *, seconds: float = 0, **changes: Any) -> dict[str, Any]:
    """Three servers, two channels. The sites hold their line for so long."""
    roles = [{"name": "hub", "replicas": 1, "args": ["hub", "0"]}, {"name": "site", "replicas": 2, "args": ["site", f"{seconds}"]}]
    return _task(name, roles, "hub", topology={"type": "Star", "hub": "hub", "ports": [9092]}, **changes)


def _task(name: str, roles: list[dict[str, Any]], sender: str, **changes: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "program": {"command": ["python", "-c", PROGRAM], "resources": {"cpu": "20m", "memory": "48Mi"}},
        "roles": roles,
        "result": {"from": sender, "maxSize": "64Ki"},
        "payment": PAYMENT,
        "deadlines": DEADLINES,
        "onion": {"hops": 3},
        "sandboxClassName": CLASS,
    }
    return {"apiVersion": "veilpod.dev/v1alpha1", "kind": "ComputeTask", "metadata": {"name": name}, "spec": spec | changes}


def offer(stage: Stage) -> None:
    """Have the cluster's admin offer sandboxes with small agents."""
    spec = stage.cluster.get("sandboxclass", "standard")["spec"] | {"agent": {"cpu": AGENT_CPU}}
    stage.cluster.apply({"apiVersion": "veilpod.dev/v1alpha1", "kind": "SandboxClass", "metadata": {"name": CLASS}, "spec": spec})


def apply(stage: Stage, recipient: str, tasks: Iterable[dict[str, Any]]) -> None:
    """Give tasks to the requester's operator. `recipient`: of the results, see `recipient_of`."""
    items = list(tasks)
    for task in items:
        task["spec"]["program"]["image"] = stage.references["tumour-model"]
        task["spec"]["result"]["recipient"] = recipient
    stage.cluster.kubectl("apply", "-n", REQUESTER.name, "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))


def recipient_of(stage: Stage) -> str:
    """Who may read the results."""
    return play.recipient(stage.cluster)
