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

OWNER, NAME, SECRET = parties.RELAYS[3], "spare", "spare-identity"
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
        return self._cluster.kubectl("-n", OWNER.name, *arguments, text=text)

    def create(self) -> None:
        self._cluster.apply(SPARE)
        self.settled(1)

    def create_with_a_secret_that_is_not_there(self) -> None:
        self._cluster.apply(SPARE | {"spec": SPARE["spec"] | {"identitySecretName": SECRET}})

    def make_the_secret(self) -> None:
        self._cluster.run("veilpod", "relay-identity", SECRET, "-n", OWNER.name)
        self.kubectl("delete", "pods", "-l", f"veilpod.dev/onionrelay={NAME}")  # it would look again by itself, in its own time

    def waits_for_ready_to_be(self, reason: str) -> None:
        self.kubectl("wait", f"orl/{NAME}", f'--for=jsonpath={{.status.conditions[?(@.type=="Ready")].reason}}={reason}', "--timeout=60s")

    def scale(self, replicas: int) -> None:
        self.kubectl("scale", f"orl/{NAME}", f"--replicas={replicas}")
        self.settled(replicas)

    def delete(self) -> None:
        self.kubectl("delete", f"orl/{NAME}", "--ignore-not-found", "--timeout=60s")
        self.kubectl("delete", "secret", SECRET, "--ignore-not-found")

    def nodes(self, status: NodeStatus = NodeStatus.ACTIVE) -> dict[int, str]:
        """Its nodes in the directory with this status: id -> address."""
        return {node: address for node, address in self._listed(status).items() if node not in self._others}

    def recorded(self) -> dict[int, int]:
        """Ordinal -> node id, as the status has it."""
        replicas: list[dict[str, Any]] = self._cluster.get("orl", NAME, "-n", OWNER.name)["status"]["replicas"]
        return {item["ordinal"]: item["nodeId"] for item in replicas}

    def keys(self) -> dict[int, tuple[int, bytes, bytes]]:
        """Its active nodes: id -> key epoch, identity key, onion key."""
        return {node: (entry[4], entry[7], entry[8]) for node in self.nodes() for entry in [self._registry.functions.node(node).call()]}

    def in_the_pod(self, program: str) -> str:
        """What a line of Python prints where the relay runs, as the relay's user."""
        return self.kubectl("exec", f"deployment/relay-{NAME}", "--", "python3", "-c", program).strip()

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

    def settled(self, replicas: int) -> None:
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
            yield made
        finally:
            made.delete()


def test_replicas_are_listed_evicted_one_at_a_time_and_leave_without_a_trace(relay: Relay) -> None:
    relay.create()
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


def test_a_relay_whose_identity_is_kept_comes_back_as_the_same_node_and_without_it_not_at_all(relay: Relay) -> None:
    relay.create_with_a_secret_that_is_not_there()
    relay.waits_for_ready_to_be("IdentityMissing")
    assert relay.nodes() == {}

    relay.make_the_secret()
    relay.settled(1)
    ((node, (epoch, identity, onion)),) = relay.keys().items()
    operator = f"--as=system:serviceaccount:{OWNER.name}:{OWNER.name}-operator"
    assert relay.kubectl("auth", "can-i", "get", "pods", operator).strip() == "yes"
    for verb in ("get", "list", "watch"):
        with pytest.raises(progress.Failure, match=r"\nno\b"):
            relay.kubectl("auth", "can-i", verb, f"secrets/{SECRET}", operator)
    stat = "import os; s = os.stat('/veilpod/identity/key'); print(oct(s.st_mode & 0o777), s.st_uid, s.st_gid, os.getuid(), os.getgid())"
    assert relay.in_the_pod(stat) == "0o440 0 65532 65532 65532"
    assert relay.in_the_pod("import os; print(sorted(os.listdir('/veilpod/identity'))[-1:])") == "['key']"

    relay.one_may_be_evicted()
    relay.evict(0)
    playing.until(lambda: relay.keys()[node][0] > epoch, "the evicted relay is listed with its new onion key", timeout=60)
    ((same, (later, identity_after, onion_after)),) = relay.keys().items()
    assert (same, later, identity_after) == (node, epoch + 1, identity)
    assert onion_after != onion
    relay.settled(1)
    assert relay.recorded() == {0: node}
    assert node not in relay.nodes(NodeStatus.RETIRED)
