"""Tasks on the stage, for tests that break things while they run."""

import contextlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from demo import chain, install, play
from demo.ledger import Ledger
from demo.parties import REQUESTER, SERVERS, Party
from demo.stage import Stage
from web3 import Web3

from localcluster import waiting

PATIENCE = 300.0
ENDLESS = [  # roles of the example that compute until they are stopped
    {"name": "hub", "replicas": 1, "args": ["aggregate", "--rounds", "100000"]},
    {"name": "site", "replicas": 2, "args": ["train"]},
]

SLOW = [  # that take their time, and end
    {"name": "hub", "replicas": 1, "args": ["aggregate", "--rounds", "150"]},
    {"name": "site", "replicas": 2, "args": ["train"]},
]


def start(stage: Stage, name: str, **changes: Any) -> None:
    """Apply the example's task under another name, with parts of its spec replaced."""
    manifest = play.manifest(stage.references["tumour-model"], play.recipient(stage.cluster), name)
    filled = manifest["spec"]
    spec = filled | changes
    spec["program"]["image"], spec["result"]["recipient"] = filled["program"]["image"], filled["result"]["recipient"]
    manifest["spec"] = {name: value for name, value in spec.items() if value is not None}
    stage.cluster.kubectl("apply", "-n", REQUESTER.name, "-f", "-", text=json.dumps(manifest))


def conditions(stage: Stage, name: str) -> dict[str, dict[str, Any]]:
    """The task's conditions by type; empty when it is gone."""
    text = stage.cluster.kubectl("get", "ct", name, "-n", REQUESTER.name, "--ignore-not-found", "-o", "json")
    found = json.loads(text)["status"]["conditions"] if text and "conditions" in json.loads(text).get("status", {}) else []
    return {condition["type"]: condition for condition in found}


def reached(stage: Stage, name: str, *types: str) -> None:
    """Wait until these conditions are True."""
    for kind in types:
        stage.cluster.kubectl(
            "wait", f"--for=condition={kind}", f"ct/{name}", "-n", REQUESTER.name, f"--timeout={PATIENCE:.0f}s", timeout=PATIENCE + 20
        )


def until(condition: Callable[[], bool], what: str, *, timeout: float = PATIENCE) -> None:
    """Wait for something that kubectl cannot wait for."""
    assert waiting.until(condition, timeout=timeout, every=1), f"not in {timeout:.0f} s: {what}"


def delete(stage: Stage, name: str) -> None:
    """Delete a task, and do not wait for its end."""
    stage.cluster.kubectl("delete", "ct", name, "-n", REQUESTER.name, "--wait=false")


def forget(stage: Stage, name: str) -> None:
    """Delete a task and wait until it is gone: torn down, settled, then gone."""
    stage.cluster.kubectl(
        "delete", "ct", name, "-n", REQUESTER.name, "--ignore-not-found", f"--timeout={PATIENCE:.0f}s", timeout=PATIENCE + 20
    )


def reconfigure(stage: Stage, **compute: Any) -> None:
    """Have every server's owner change its values, and wait for the new operators."""
    for server in SERVERS:
        values = install.values(server, stage.references, stage.contracts)
        values["compute"] |= compute
        install.helm(stage.cluster, server.name, server.name, values)
    for server in SERVERS:
        stage.cluster.kubectl("rollout", "status", f"deployment/{server.name}-operator", "-n", server.name, "--timeout=240s")


def objects(stage: Stage, kind: str, *selector: str) -> list[dict[str, Any]]:
    """Every object of a kind on the cluster, whoever's it is."""
    found: list[dict[str, Any]] = stage.cluster.get(kind, "--all-namespaces", *selector)["items"]
    return found


def sandbox_pods(stage: Stage) -> list[dict[str, Any]]:
    """Every sandbox pod on the cluster."""
    return objects(stage, "pods", "-l", "veilpod.dev/component=sandbox")


def kill_operator(stage: Stage, party: Party) -> None:
    """SIGKILL a party's operator (grace period 0); its Deployment starts another."""
    stage.cluster.kubectl(
        "delete", "pod", "-n", party.name, "-l", "veilpod.dev/component=operator", "--grace-period=0", "--force", "--wait=false"
    )


@contextlib.contextmanager
def chain_away(stage: Stage):  # type: ignore[no-untyped-def]
    """Freeze the chain's process while the body runs: connections hang, as they do when a node is lost."""
    node = [sys.executable, "-m", "localcluster", "exec", "--name", stage.cluster.name, "--", "pkill", "-x", "anvil"]
    subprocess.run([*node, "--signal", "STOP"], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run([*node, "--signal", "CONT"], check=True, capture_output=True)


@contextlib.contextmanager
def policy_away(stage: Stage, name: str):  # type: ignore[no-untyped-def]
    """Have a cluster's admin delete an admission policy while the body runs, and put it back as the remedy says: by an upgrade."""
    stage.cluster.kubectl("delete", "validatingadmissionpolicy", name)
    try:
        yield
    finally:
        install.admin(stage.cluster)
        stage.cluster.kubectl("get", "validatingadmissionpolicy", name)


def assignments(stage: Stage, name: str) -> list[dict[str, Any]]:
    """Every server's part in a task."""
    task = stage.cluster.get("ct", name, "-n", REQUESTER.name)["status"]["taskId"]
    return [item for item in objects(stage, "taskassignment") if item["spec"]["taskId"] == task]


def ledger(stage: Stage, web3: Web3, first: int) -> Ledger:
    """What has happened on chain since a block."""
    return Ledger(web3=web3, contracts=stage.contracts, first=first, last=web3.eth.block_number)


def sessions(stage: Stage, name: str) -> dict[str, tuple[int, str]]:
    """A task's channels: in which session, and the party a."""
    task = stage.cluster.get("computetask", name, "-n", REQUESTER.name)["status"]["taskId"]
    specs = [item["spec"] for item in objects(stage, "statechannel")]
    return {spec["channelId"]: (spec["session"], spec["a"]) for spec in specs if spec["assignment"].startswith(f"ta-{task[2:18]}-")}


def happened(stage: Stage, web3: Web3, first: int, name: str) -> Counter[str]:
    """What the contracts tell of one task and its channels, counted: others may still be on their way out."""
    task = stage.cluster.get("computetask", name, "-n", REQUESTER.name)["status"]["taskId"]
    ours = {(channel, session) for channel, (session, _) in sessions(stage, name).items()}
    seen = ledger(stage, web3, first)
    found = Counter(f"task {e['name']}" for e in seen.events("scheduler") if "0x" + bytes(e["args"].get("id", b"")).hex() == task)
    for event in seen.events("channels"):
        if "channel" in event and ("0x" + event["channel"].id.hex(), event["channel"].epoch) in ours:
            found[f"channel {event['name']}"] += 1
    return found


def pass_time(stage: Stage, web3: Web3, seconds: int) -> None:
    """Let the chain's clock jump: the end of a challenge period.

    Operators count on the time between two looks being as long as the chain's, so each object is touched to have it looked at again.
    """
    web3.provider.make_request("evm_increaseTime", [seconds])  # type: ignore[arg-type]
    chain.wait_blocks(web3, 2)
    touched = f"veilpod.dev/touched={web3.eth.block_number}"
    for party in (REQUESTER, *SERVERS):
        kinds = "computetasks" if party is REQUESTER else "taskassignments,statechannels"
        names = stage.cluster.kubectl("get", kinds, "-n", party.name, "-o", "name").split()
        if names:
            stage.cluster.kubectl("annotate", *names, "-n", party.name, "--overwrite", touched)
