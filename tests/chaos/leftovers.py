"""What is left when everything should be over: on the cluster, on chain, and which sandboxes outlived the settlement of their tasks."""

import dataclasses
import datetime
import json
import pathlib
from typing import Any

from demo.parties import REQUESTER, SERVERS
from demo.stage import Stage
from web3 import Web3

from tests.support import playing
from tests.support.reckoning import Reckoning, reckon

KINDS = ((REQUESTER, "computetasks"), *((server, kind) for server in SERVERS for kind in ("taskassignments", "statechannels")))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """Names of everything that should not be."""

    pods: tuple[str, ...]
    objects: tuple[str, ...]  # deleted, settled, and held by a finalizer all the same
    keys: tuple[str, ...]
    channels: tuple[str, ...]
    twice: tuple[str, ...]
    alive: tuple[str, ...]  # sandboxes that ran when their task was settled
    unwitnessed: tuple[str, ...]  # sandboxes whose end the watch did not see, so that nothing can be said
    unsettled: tuple[str, ...]  # tasks
    tasks: int
    refused: dict[str, int]  # transactions that the chain refused, by function: two that wanted the same, and only one could

    @property
    def orphans(self) -> int:
        """Everything that nobody will ever remove."""
        return sum(map(len, (self.pods, self.objects, self.keys, self.channels, self.unsettled)))


def objects(stage: Stage) -> list[str]:
    """Every object of a task that exists."""
    found = []
    for party, kind in KINDS:
        found += [f"{party.name}/{name}" for name in stage.cluster.kubectl("get", kind, "-n", party.name, "-o", "name").split()]
    return found


def delete_all(stage: Stage) -> None:
    """Ask for the deletion of every object, and do not wait."""
    for party, kind in KINDS:
        stage.cluster.kubectl("delete", kind, "--all", "-n", party.name, "--wait=false")


def count(stage: Stage, web3: Web3, first: int, watched: pathlib.Path) -> Leftovers:
    """Look at everything since a block. `watched`: the file that `demo.pods.watched` wrote meanwhile."""
    ledger = playing.ledger(stage, web3, first)
    said = reckon(ledger)
    refused: dict[str, int] = {}
    for transaction in ledger.transactions():
        if not transaction["ok"]:
            refused[transaction["function"]] = refused.get(transaction["function"], 0) + 1
    alive, unwitnessed = outlived(watched, said)
    return Leftovers(
        pods=tuple(pod["metadata"]["name"] for pod in playing.sandbox_pods(stage)),
        objects=tuple(objects(stage)),
        keys=said.keys,
        channels=said.channels,
        twice=said.twice,
        alive=alive,
        unwitnessed=unwitnessed,
        unsettled=tuple(sorted(set(said.tasks) - set(said.ended))),
        tasks=len(said.tasks),
        refused=refused,
    )


def outlived(watched: pathlib.Path, said: Reckoning) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which sandboxes ran later than the block that settled their task, and of which it cannot be said."""
    ends = {f"ta-{task[2:18]}": time for task, time in said.ended.items()}
    newest: dict[str, dict[str, Any]] = {}
    for line in watched.read_text().splitlines():
        pod = json.loads(line)["event"]["object"]
        newest[pod["metadata"]["uid"]] = pod
    alive, unwitnessed = [], []
    for pod in newest.values():
        name, labels = pod["metadata"]["name"], pod["metadata"]["labels"]
        settled = ends.get(labels["veilpod.dev/assignment"].rpartition("-")[0])
        ended = ended_at(pod)
        if ended is None:
            unwitnessed.append(name)
        elif settled is not None and ended > settled:
            alive.append(name)
    return tuple(alive), tuple(unwitnessed)


def ended_at(pod: dict[str, Any]) -> float | None:
    """When the last container of a pod ended (unix seconds, by the kubelet); 0 when none ever began; None while one runs."""
    status = pod.get("status", {})
    last = 0.0
    for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        if "running" in container["state"]:
            return None
        ended = container["state"].get("terminated", {}).get("finishedAt")
        last = max(last, datetime.datetime.fromisoformat(ended).timestamp() if ended else 0.0)
    return last
