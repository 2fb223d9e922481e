"""`build/demo/report.json`: the machine-readable truth about one run, read from the chain, the API server and the pods' own ends."""

import json
import subprocess
import sys
from typing import Any

from demo import pods
from demo.cluster import Cluster
from demo.ledger import Ledger
from demo.parties import HOSPITALS, PARTIES, RELAYS, REQUESTER, ROOT, SERVERS, WORK


def report(cluster: Cluster, ledger: Ledger, task: str, images: dict[str, str]) -> dict[str, Any]:
    """Gather everything. Pure reading: it can be run again."""
    return {
        "conditions": conditions(cluster, task),
        "transactions": ledger.transactions(),
        "balances": ledger.balances(),
        "channels": channels(cluster, ledger),
        "sandboxes": sandboxes(cluster, task),
        "circuits": circuits(cluster, ledger),
        "accuracy": accuracy(),
        "images": images,
        "versions": versions(cluster),
    }


def conditions(cluster: Cluster, task: str) -> dict[str, Any]:
    """Every condition of the task and of each server's share of it, with its time."""
    found = {f"{REQUESTER.name}/computetask/{task}": _conditions(cluster.get("computetask", task, "-n", REQUESTER.name))}
    for party, kind in [
        *((s, "taskassignment") for s in SERVERS),
        *((s, "statechannel") for s in SERVERS),
        *((h, "dataset") for h in HOSPITALS),
        *((r, "onionrelay") for r in RELAYS),
    ]:
        for item in cluster.get(kind, "-n", party.name)["items"]:
            found[f"{party.name}/{kind}/{item['metadata']['name']}"] = _conditions(item)
    return found


def _conditions(item: dict[str, Any]) -> list[dict[str, Any]]:
    keep = ("type", "status", "reason", "message", "lastTransitionTime")
    return [{key: condition.get(key, "") for key in keep} for condition in item.get("status", {}).get("conditions", [])]


def channels(cluster: Cluster, ledger: Ledger) -> list[dict[str, Any]]:
    """Per channel: opening, updates, final version, transcript head on both sides, payout."""
    events = ledger.events("channels")
    sides: dict[tuple[str, int], dict[str, Any]] = {}  # by channel and session
    for server in SERVERS:
        for item in cluster.get("statechannel", "-n", server.name)["items"]:
            status = item.get("status", {})
            side = {key: status.get(key) for key in ("sequence", "updates", "transcriptHead", "balanceA", "balanceB", "phase")}
            sides.setdefault((item["spec"]["channelId"], item["spec"]["session"]), {})[server.name] = side
    found = []
    for opened in (e for e in events if e["name"] == "Opened"):
        channel, first = "0x" + opened["args"]["channelId"].hex(), opened["channel"]
        closed = next(
            (e for e in events if e["name"] == "Closed" and (e["channel"].id, e["channel"].epoch) == (first.id, first.epoch)), None
        )
        parties = ledger.arguments(opened)["id"]  # the event has only what changed
        final, both = closed["channel"] if closed else None, sides.get((channel, first.epoch), {})
        found.append(
            {
                "channelId": channel,
                "session": first.epoch,
                "a": ledger.names.get(parties["a"].lower()),
                "b": ledger.names.get(parties["b"].lower()),
                "opening": {
                    "block": opened["block"],
                    "time": opened["time"],
                    "depositA": str(first.balance_a),
                    "depositB": str(first.balance_b),
                },
                "updates": max((side.get("updates") or 0 for side in both.values()), default=0),
                "finalVersion": final.version if final else None,
                "finalSequence": final.sequence if final else None,
                "sides": both,
                "transcriptHead": sorted({str(side.get("transcriptHead")) for side in both.values()}),
                "payout": {"a": str(final.balance_a), "b": str(final.balance_b), "block": closed["block"], "time": closed["time"]}
                if closed and final
                else None,
            }
        )
    return found


def sandboxes(cluster: Cluster, task: str) -> list[dict[str, Any]]:
    """Per sandbox: pod UID, times of creation, key and destruction, and the evidence of its end."""
    on_chain = cluster.get("computetask", task, "-n", REQUESTER.name)["status"]["taskId"]
    lives = {life["uid"]: life for life in pods.lives(WORK / "pods.jsonl")}
    found = []
    for server in SERVERS:
        for item in cluster.get("taskassignment", "-n", server.name)["items"]:
            if item["spec"]["taskId"] != on_chain:
                continue
            status = item.get("status", {})
            times = {c["type"]: c["lastTransitionTime"] for c in status.get("conditions", []) if c["status"] == "True"}
            life = lives.get(status.get("podUID", ""), {})
            found.append(
                {
                    "server": server.name,
                    "role": item["spec"]["role"],
                    "index": item["spec"]["index"],
                    "podUID": status.get("podUID"),
                    "incarnation": status.get("incarnation"),
                    "keyFingerprint": status.get("keyFingerprint"),
                    "created": life.get("created"),
                    "ready": times.get("SandboxReady"),
                    "key": times.get("KeyPublished"),
                    "destroyed": times.get("SandboxDestroyed"),
                    "evidence": {key: life.get(key) for key in ("containersTerminated", "containers", "deleted", "nodeConfirmed", "gone")},
                }
            )
    return found


def circuits(cluster: Cluster, ledger: Ledger) -> list[dict[str, Any]]:
    """Bytes and relays of every circuit, as the demo images' tracing printed them. Production images have no such module."""
    last: dict[tuple[str, str, int], dict[str, Any]] = {}
    for party in PARTIES:
        selector = "app.kubernetes.io/name=veilpod"
        text = cluster.kubectl("logs", "-n", party.name, "-l", selector, "--all-containers", "--tail=-1", "--ignore-errors")
        for record in map(_json, text.splitlines()):
            if record.get("event") == "circuit":
                # Later lines of one circuit have counted further.
                last[party.name, record.get("assignment", ""), record["number"]] = record
    return [
        {
            "party": party,
            "assignment": assignment,
            "purpose": record["purpose"],
            "relays": [ledger.owner_of(node) for node in record["relays"]],
            "sent": record["sent"],
            "received": record["received"],
        }
        for (party, assignment, _), record in sorted(last.items())
    ]


def accuracy() -> dict[str, Any]:
    """Compare on the held-out cases: each hospital alone, both pooled, federated. Runs the example's own code."""
    command = [
        sys.executable,
        str(ROOT / "examples" / "tumour-model" / "compare.py"),
        str(WORK / "data"),
        str(WORK / "result" / "out" / "model.json"),
    ]
    result: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result


def versions(cluster: Cluster) -> dict[str, Any]:
    """What everything was."""
    import veilpod

    server = json.loads(cluster.kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    node = cluster.get("nodes")["items"][0]["status"]["nodeInfo"]
    return {
        "veilpod": veilpod.__version__,
        "commit": commit,
        "kubernetes": server,
        "containerRuntime": node["containerRuntimeVersion"],
        "kernel": node["kernelVersion"],
        "helm": cluster.run("helm", "version", "--short").strip(),
        "python": sys.version.split()[0],
    }


def _json(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
