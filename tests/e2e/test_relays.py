"""An owner's second relay: scaled up and down, evicted, deleted, and what the directory on chain and the cluster show of it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from demo import chain, parties
from demo.stage import Stage
from web3 import Web3

from localcluster import progress
from tests.support import playing
from veilpod.core.entities import NodeStatus, Role

pytestmark = pytest.mark.e2e

OWNER, NAME = parties.RELAYS[3], "spare"
SPARE = {
    "apiVersion": "veilpod.dev/v1alpha1",
    "kind": "OnionRelay",
    "metadata": {"name": NAME, "namespace": OWNER.name},
    "spec": {"drainSeconds": 5, "burst": "1Mi"},
}


class Relay:
    """The owner's OnionRelay, and its nodes in NodeRegistry."""

    def __init__(self, stage: Stage, web3: Web3) -> None:
        self._cluster = stage.cluster
        self._registry = web3.eth.contract(
            address=Web3.to_checksum_address(stage.contracts["registry"]), abi=chain.artifacts()["NodeRegistry"]
        )
        self._others = self._listed().keys()

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        return self._cluster.kubectl(*arguments, "-n", OWNER.name, text=text)

    def create(self) -> None:
        self._cluster.apply(SPARE)
        self._settled(1)

    def scale(self, replicas: int) -> None:
        self.kubectl("scale", f"orl/{NAME}", f"--replicas={replicas}")
        self._settled(replicas)

    def delete(self) -> None:
        self.kubectl("delete", f"orl/{NAME}", "--ignore-not-found", "--timeout=60s")

    def nodes(self, status: NodeStatus = NodeStatus.ACTIVE) -> dict[int, str]:
        """Its nodes in the directory with this status: id -> address."""
        return {node: address for node, address in self._listed(status).items() if node not in self._others}

    def recorded(self) -> dict[int, int]:
        """Ordinal -> node id, as the status has it."""
        replicas: list[dict[str, Any]] = self._cluster.get("orl", NAME, "-n", OWNER.name)["status"]["replicas"]
        return {item["ordinal"]: item["nodeId"] for item in replicas}

    def evict(self, ordinal: int) -> None:
        """What `kubectl drain` asks for. Raises Failure when the budget forbids it."""
        selector = f"veilpod.dev/onionrelay={NAME},veilpod.dev/ordinal={ordinal}"
        (pod,) = self._cluster.get("pods", "-n", OWNER.name, "-l", selector)["items"]
        meta = {"name": pod["metadata"]["name"], "namespace": OWNER.name}
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta}
        path = f"/api/v1/namespaces/{OWNER.name}/pods/{meta['name']}/eviction"
        self._cluster.kubectl("create", "--raw", path, "-f", "-", text=json.dumps(body))

    def one_may_be_evicted(self) -> None:
        self.kubectl("wait", f"pdb/relay-{NAME}", "--for=jsonpath={.status.disruptionsAllowed}=1", "--timeout=60s")

    def objects(self) -> set[str]:
        found = self.kubectl("get", "deployments,services,pdb,pods", "-l", f"veilpod.dev/onionrelay={NAME}", "-o", "name").split()
        return {name for name in found if not name.startswith("pod/")} | {"pod" for name in found if name.startswith("pod/")}

    def _settled(self, replicas: int) -> None:
        for field in ("replicaCount", "readyReplicas"):
            self.kubectl("wait", f"orl/{NAME}", f"--for=jsonpath={{.status.{field}}}={replicas}", "--timeout=60s")

    def _listed(self, status: NodeStatus = NodeStatus.ACTIVE) -> dict[int, str]:
        page = self._registry.functions.page(int(Role.RELAY), 1, 1000).call()
        return {node[0]: node[9] for node in page if str(node[1]).lower() == OWNER.address.lower() and node[3] == status}


@pytest.fixture
def relay(stage: Stage) -> Iterator[Relay]:
    with chain.reachable(stage.cluster) as web3:
        made = Relay(stage, web3)
        try:
            made.create()
            yield made
        finally:
            made.delete()


def test_replicas_are_listed_evicted_one_at_a_time_and_leave_without_a_trace(relay: Relay) -> None:
    first, objects = relay.nodes(), relay.objects()
    assert len(first) == 1
    relay.one_may_be_evicted()  # a single replica never blocks `kubectl drain`

    relay.scale(2)
    both = relay.nodes()
    assert len(both) == len(set(both.values())) == 2
    assert both.items() >= first.items()
    assert set(relay.recorded().values()) == both.keys()

    relay.one_may_be_evicted()
    relay.evict(1)
    with pytest.raises(progress.Failure, match="disruption budget"):
        relay.evict(0)
    playing.until(lambda: relay.recorded()[1] not in both, "the evicted replica is a new node", timeout=60)
    relay.one_may_be_evicted()
    after = relay.nodes()
    assert after.items() >= first.items()
    assert sorted(after.values()) == sorted(both.values())

    relay.scale(1)
    assert relay.nodes() == first
    assert relay.nodes(NodeStatus.RETIRED).keys() >= (both.keys() | after.keys()) - first.keys()
    playing.until(lambda: relay.objects() == objects, "only the first replica's objects are left", timeout=30)

    relay.delete()
    assert relay.nodes() == relay.nodes(NodeStatus.DRAINING) == {}
    playing.until(lambda: relay.objects() == set(), "nothing is left", timeout=30)
