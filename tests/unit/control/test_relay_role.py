"""The relay owner's role: a real relay and its real control stream, over a chain and a cluster in memory."""

import asyncio
import contextlib
import copy
import dataclasses
import time

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support.onion import CHAIN_ID, REGISTRY
from tests.support.worlds import NOW, MemoryChain, MemoryCluster

from veilpod.control import config
from veilpod.control.context import Context
from veilpod.control.events import EventRecorder
from veilpod.control.metrics import Metrics
from veilpod.control.role import Key
from veilpod.control.roles.relay import FINALIZER, RelayRole
from veilpod.control.tasks import Tasks
from veilpod.core.entities import ChainEvent, Node, NodeStatus, Role
from veilpod.core.ids import NodeId
from veilpod.core.keys import SigningKey, node_keys
from veilpod.core.kinds import DEPLOYMENTS, ONION_RELAYS, POD_DISRUPTION_BUDGETS, PODS, SERVICES
from veilpod.core.onion.directory import RelayEntry
from veilpod.errors import ChainUnavailable, InvalidInput, PeerUnavailable, Refused
from veilpod.kube import relay_manifests
from veilpod.net.control import ControlServer, connect
from veilpod.net.control_tls import control_certificate
from veilpod.relay.commands import Commands
from veilpod.relay.keys import RelayKeys
from veilpod.relay.router import Relay

OWNER = SigningKey(secret=b"\x51" * 32)
CONTRACTS = dict.fromkeys(("registry", "scheduler", "channels"), REGISTRY)
KEY = Key(kind="onionrelays", name="alpha")


class Cluster(MemoryCluster):
    """With server-side apply and deletion; each Service gets an address."""

    async def apply(self, kind, body, *, namespace=None):
        name = body["metadata"]["name"]
        fresh = copy.deepcopy(dict(body))
        fresh["metadata"]["uid"] = f"{kind.plural}-{name}"
        if kind is SERVICES:
            fresh["spec"]["clusterIP"] = f"10.96.0.{7 + int(fresh['metadata']['labels'][relay_manifests.ORDINAL_LABEL])}"
        self.objects[kind.plural, name] = fresh
        return self._touched(fresh)

    async def delete(self, kind, name, *, uid, namespace=None, resource_version=None):
        assert self.objects[kind.plural, name]["metadata"]["uid"] == uid
        del self.objects[kind.plural, name]
        return True

    async def watch(self, kind, *, namespace=None, labels=None):
        for body in await self.list_all(kind, namespace=namespace, labels=labels):
            yield "LISTED", body
        await asyncio.Event().wait()


class Chain(MemoryChain):
    """With what a relay's owner does."""

    async def rotate_key(self, node, *, onion_key, proof):
        old = self.nodes[node]
        self.nodes[node] = dataclasses.replace(old, onion_key=onion_key, proof=proof, key_epoch=old.key_epoch + 1)


class World:
    """What a test looks at. `pod` runs a relay as the cluster would."""

    def __init__(self, tasks: Tasks) -> None:
        self.cluster, self.chain = Cluster("relays"), Chain(OWNER.address)
        self.ports: dict[str, int] = {}
        self.woken: asyncio.Queue[Key] = asyncio.Queue()
        self.context = Context(
            config=config.parse(
                {
                    "namespace": "relays", "roles": ["relay"], "release": "north", "images": {"relay": "relay@sha256:00"},
                    "chain": {"rpcUrl": "", "chainId": CHAIN_ID, "contracts": CONTRACTS},
                    "stateDir": "/nowhere", "keyFile": "/nowhere",
                }
            ),
            cluster=self.cluster,
            reader=self.chain,
            writer=self.chain,
            key=OWNER,
            node_keys=node_keys(OWNER),
            clock=lambda: self.now,
            connect=self._connect,
            events=EventRecorder(self.cluster, instance="test", clock=time.time),
            metrics=Metrics(),
            tasks=tasks,
            enqueue=self.woken.put_nowait,
        )  # fmt: skip
        self.now = float(NOW)
        self.role = RelayRole(self.context)
        self.groups = contextlib.AsyncExitStack()

    def apply(self, **spec) -> None:
        self.cluster.put(ONION_RELAYS, "alpha", spec={"port": 9001} | spec)

    async def pod(self, number: int, *, ordinal: int = 0, keys: RelayKeys | None = None) -> Relay:
        """The pod of a replica's Deployment: a relay with its control stream."""
        labels = relay_manifests.labels(release="north", relay="alpha", ordinal=ordinal)
        for old in await self.cluster.list_all(PODS, labels=labels):
            del self.cluster.objects[PODS.plural, old["metadata"]["name"]]
        relay = Relay(keys)
        server = ControlServer(control_certificate(self.context.node_keys.control), Commands(relay).handlers())
        task = asyncio.get_running_loop().create_task(server.serve("127.0.0.1", 0))
        self.groups.push_async_callback(_end, task)
        await server.listening.wait()
        address = f"10.1.0.{number}"
        self.ports[address] = server.port
        self.cluster.put(PODS, f"alpha-{number}", metadata={"labels": labels}, status={"phase": "Running", "podIP": address})
        return relay

    def pod_that_ends(self, number: int, code: int, *, ordinal: int = 0, again: bool = False) -> None:
        """The pod of a replica whose relay ends at once; `again` is a moment in which it has been started again."""
        labels = relay_manifests.labels(release="north", relay="alpha", ordinal=ordinal)
        state = {"running": {}} if again else {"waiting": {"reason": "CrashLoopBackOff"}}
        containers = [{"state": state, "lastState": {"terminated": {"exitCode": code}}}]
        status = {"phase": "Running", "podIP": f"10.1.0.{number}", "containerStatuses": containers}
        self.cluster.put(PODS, f"alpha-{number}", metadata={"labels": labels}, status=status)

    async def _connect(self, host, port, *, pinned_tls_key=None):
        assert port == relay_manifests.CONTROL_PORT
        if host not in self.ports:
            raise PeerUnavailable("nobody there")
        return await connect("127.0.0.1", self.ports[host], key=self.context.node_keys.control, timeout=10, call_timeout=2)

    @property
    def status(self):
        return self.cluster.objects["onionrelays", "alpha"].get("status", {})

    def condition(self, kind: str) -> tuple[str, str]:
        found = next(item for item in self.status["conditions"] if item["type"] == kind)
        return found["status"], found["reason"]

    def named(self, name: str) -> set[str]:
        """The kinds of the objects of this name."""
        return {plural for plural, found in self.cluster.objects if found == name}

    def replica(self, ordinal: int) -> dict:
        return next(item for item in self.status["replicas"] if item["ordinal"] == ordinal)

    def scale(self, replicas: int) -> None:
        self.cluster.objects["onionrelays", "alpha"]["spec"]["replicas"] = replicas

    def live(self) -> list[Node]:
        return [node for node in self.chain.nodes.values() if node.status is not NodeStatus.RETIRED]


async def _end(task: asyncio.Task) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def world():
    async with Tasks() as tasks:
        one = World(tasks)
        try:
            yield one
        finally:
            await one.role.stop()
            await one.groups.aclose()


async def test_a_relay_gets_its_pod_its_address_and_its_place_in_the_directory(world):
    world.apply()
    assert await world.role.reconcile(KEY) is not None
    assert world.condition("Ready") == ("False", "PodPending")
    assert world.named("relay-alpha") == {DEPLOYMENTS.plural, SERVICES.plural, POD_DISRUPTION_BUDGETS.plural}
    relay = await world.pod(1)
    await world.role.reconcile(KEY)
    (node,) = world.live()
    entry = RelayEntry.from_node(node, registry=REGISTRY, chain_id=CHAIN_ID)  # its proof holds
    assert (entry.host, entry.port, entry.identity_key) == ("10.96.0.7", 9001, relay.keys.identity_public)
    assert world.condition("Ready") == ("True", "Serving")
    assert world.condition("Registered") == ("True", "Listed")
    assert (world.status["phase"], world.status["nodeId"], world.status["keyEpoch"]) == ("Serving", node.id, 1)
    assert "10." not in str(world.status)  # no place in a status


async def test_a_relay_claims_the_bandwidth_that_it_has_and_both_change_while_it_runs(world):
    world.apply(bandwidth="2Mi")
    relay = await world.pod(1)
    await world.role.reconcile(KEY)
    (before,) = world.live()
    assert (before.capacity, relay.bandwidth) == (2048, (2 << 20, 2 << 20))
    deployment = copy.deepcopy(world.cluster.objects[DEPLOYMENTS.plural, "relay-alpha"]["spec"])
    world.cluster.objects["onionrelays", "alpha"]["spec"] |= {"bandwidth": "4000000", "burst": "64Ki"}
    await world.role.reconcile(KEY)
    (after,) = world.live()
    assert after == dataclasses.replace(before, capacity=3906)
    assert relay.bandwidth == (4_000_000, 64 << 10)
    assert world.cluster.objects[DEPLOYMENTS.plural, "relay-alpha"]["spec"] == deployment  # or its circuits would be gone


async def test_a_second_look_changes_nothing(world):
    world.apply()
    await world.pod(1)
    await world.role.reconcile(KEY)
    nodes, status = dict(world.chain.nodes), copy.deepcopy(world.status)
    world.now += 30
    await world.role.reconcile(KEY)
    assert (world.chain.nodes, world.status) == (nodes, status)


async def test_a_new_pod_is_a_new_node_and_the_old_one_is_retired(world):
    world.apply()
    await world.pod(1)
    await world.role.reconcile(KEY)
    (old,) = world.live()
    await world.pod(2)
    await world.role.reconcile(KEY)
    (new,) = world.live()
    assert new.id != old.id
    assert new.identity_key != old.identity_key
    assert world.chain.nodes[old.id].status is NodeStatus.RETIRED
    assert world.status["nodeId"] == new.id


async def test_an_onion_key_of_a_day_ago_is_rotated_with_a_valid_proof(world):
    world.apply()
    relay = await world.pod(1)
    await world.role.reconcile(KEY)
    (before,) = world.live()
    world.now += 25 * 3600
    await world.role.reconcile(KEY)
    (after,) = world.live()
    assert (after.id, after.key_epoch) == (before.id, 2)
    assert after.onion_key == relay.keys.newest.public != before.onion_key
    RelayEntry.from_node(after, registry=REGISTRY, chain_id=CHAIN_ID)


async def test_heartbeats_are_sent_when_they_are_due(world):
    world.apply()
    await world.pod(1)
    await world.role.reconcile(KEY)
    world.chain.time += 599
    await world.role.reconcile(KEY)
    assert world.live()[0].updated_at == NOW
    world.chain.time += 1
    await world.role.reconcile(KEY)
    assert world.live()[0].updated_at == NOW + 600


async def test_draining_is_told_to_the_relay_the_directory_and_the_status(world):
    world.apply(draining=True)
    relay = await world.pod(1)
    await world.role.reconcile(KEY)
    assert relay.draining
    assert world.live()[0].status is NodeStatus.DRAINING
    assert world.condition("Ready") == ("False", "Draining")
    world.cluster.objects["onionrelays", "alpha"]["spec"]["draining"] = False
    await world.role.reconcile(KEY)
    assert not relay.draining
    assert world.live()[0].status is NodeStatus.ACTIVE


@pytest.mark.parametrize("allow", ["Registered", "None"])
async def test_a_relay_exits_only_where_its_owner_allows(world, allow):
    world.apply(exit={"allow": allow})
    relay = await world.pod(1)
    await world.chain.register(
        roles=Role.STORAGE, capacity=0, identity_key=bytes(32), onion_key=bytes(32), endpoint="10.96.0.9:9101", proof=b""
    )
    await world.role.reconcile(KEY)
    assert relay.policy.allows("10.96.0.9:9101") is (allow == "Registered")
    for node in list(world.chain.nodes.values()):
        if Role.STORAGE in node.roles:
            await world.chain.set_status(node.id, NodeStatus.OFFLINE)
    await world.role.reconcile(KEY)
    assert not relay.policy.allows("10.96.0.9:9101")


async def test_a_suspended_relay_is_told_as_such_and_left_alone(world):
    world.apply()
    await world.pod(1)
    await world.role.reconcile(KEY)
    await world.chain.set_status(world.live()[0].id, NodeStatus.SUSPENDED)
    await world.role.reconcile(KEY)
    assert world.condition("Registered") == ("False", "Suspended")
    assert world.live()[0].status is NodeStatus.SUSPENDED


async def test_a_chain_that_does_not_answer_is_unknown_and_not_absent(world):
    world.apply()
    await world.pod(1)
    await world.role.reconcile(KEY)
    world.chain.down = True
    with pytest.raises(ChainUnavailable):
        await world.role.reconcile(KEY)
    assert world.condition("Registered") == ("Unknown", "ChainUnavailable")
    assert world.condition("Ready") == ("True", "Serving")
    world.chain.down = False
    await world.role.reconcile(KEY)
    assert world.condition("Registered") == ("True", "Listed")
    assert len(world.chain.nodes) == 1


async def test_a_relay_that_does_not_answer_is_unknown_and_keeps_its_node(world):
    world.apply()
    await world.pod(1)
    await world.role.reconcile(KEY)
    await world.pod(2)
    world.ports.clear()
    with pytest.raises(PeerUnavailable):
        await world.role.reconcile(KEY)
    assert world.condition("Ready") == ("Unknown", "RelayUnavailable")
    assert len(world.live()) == 1


async def test_a_deleted_relay_leaves_the_directory_before_it_goes(world):
    world.apply()
    await world.pod(1)
    await world.role.reconcile(KEY)
    assert world.cluster.objects["onionrelays", "alpha"]["metadata"]["finalizers"] == [FINALIZER]
    world.cluster.ask_deletion(ONION_RELAYS, "alpha")
    world.chain.down = True
    with pytest.raises(ChainUnavailable):
        await world.role.reconcile(KEY)
    assert ("onionrelays", "alpha") in world.cluster.objects
    world.chain.down = False
    await world.role.reconcile(KEY)
    assert world.live() == []
    assert ("onionrelays", "alpha") not in world.cluster.objects
    assert await world.role.reconcile(KEY) is None


async def test_a_deleted_relay_waits_for_its_circuits_and_takes_no_new_ones(world):
    world.apply()
    relay = await world.pod(1)
    await world.role.reconcile(KEY)
    relay.circuits.add("somebody's")
    world.cluster.ask_deletion(ONION_RELAYS, "alpha")
    assert await world.role.reconcile(KEY)
    assert relay.draining
    assert [node.status for node in world.live()] == [NodeStatus.DRAINING]
    assert world.condition("Ready") == ("False", "Draining")
    relay.circuits.clear()
    assert await world.role.reconcile(KEY) is None
    assert world.live() == []
    assert ("onionrelays", "alpha") not in world.cluster.objects


@pytest.mark.parametrize("patience", [0, 30])
async def test_a_deleted_relay_waits_no_longer_than_it_may(world, patience):
    world.apply(drainSeconds=patience)
    relay = await world.pod(1)
    await world.role.reconcile(KEY)
    relay.circuits.add("somebody's")
    world.cluster.ask_deletion(ONION_RELAYS, "alpha")
    if patience:
        await world.role.reconcile(KEY)
        assert len(world.live()) == 1
        world.now += patience
    assert await world.role.reconcile(KEY) is None
    assert world.live() == []


async def test_a_deleted_relay_whose_pod_is_gone_waits_for_nobody(world):
    world.apply()
    await world.pod(1)
    await world.role.reconcile(KEY)
    world.ports.clear()
    await world.role.stop()
    world.cluster.ask_deletion(ONION_RELAYS, "alpha")
    assert await world.role.reconcile(KEY) is None
    assert world.live() == []


async def test_another_relay_of_the_same_owner_is_not_retired(world):
    other = await world.chain.register(
        roles=Role.RELAY, capacity=0, identity_key=b"o" * 32, onion_key=b"k" * 32, endpoint="10.96.0.8:9001", proof=b""
    )
    world.apply()
    await world.pod(1)
    await world.role.reconcile(KEY)
    world.cluster.ask_deletion(ONION_RELAYS, "alpha")
    await world.role.reconcile(KEY)
    assert [node.id for node in world.live()] == [other]


async def test_a_wrong_value_and_a_missing_image_are_refused_with_a_reason(world):
    world.apply(bandwidth="fast")
    with pytest.raises(InvalidInput):
        await world.role.reconcile(KEY)
    world.apply()
    world.context.config.images.pop("relay")
    with pytest.raises(Refused) as caught:
        await world.role.reconcile(KEY)
    assert caught.value.reason == "NoRelayImage"


async def test_every_relay_is_looked_at_again_when_the_registry_changes(world):
    world.apply()
    world.cluster.put(ONION_RELAYS, "beta", spec={})
    assert [key.name for key in await world.role.resync()] == ["alpha", "beta"]
    event = ChainEvent(
        contract="NodeRegistry", name="NodeStatus", subject=NodeId(1).to_bytes(4, "big"), args={}, block=1, transaction=bytes(32)
    )
    assert [key.name for key in world.role.interested(event)] == ["alpha", "beta"]
    assert list(world.role.interested(dataclasses.replace(event, contract="TaskScheduler"))) == []


# -- replicas


async def two(world: World) -> tuple[Relay, Relay]:
    """An OnionRelay of two replicas that serve."""
    world.apply(replicas=2)
    relays = await world.pod(1), await world.pod(2, ordinal=1)
    await world.role.reconcile(KEY)
    return relays


async def test_a_pod_that_comes_or_goes_is_looked_at_without_waiting(world):
    await world.pod(1, ordinal=3)
    await world.role.start()
    assert await asyncio.wait_for(world.woken.get(), 10) == KEY


async def test_each_replica_is_a_relay_of_its_own(world):
    relays = await two(world)
    nodes = world.live()
    assert [node.identity_key for node in nodes] == [relay.keys.identity_public for relay in relays]
    assert [node.endpoint for node in nodes] == ["10.96.0.7:9001", "10.96.0.8:9001"]
    assert len({node.onion_key for node in nodes}) == 2
    assert world.named("relay1-alpha") == {DEPLOYMENTS.plural, SERVICES.plural}
    assert world.status["replicas"] == [
        {"ordinal": ordinal, "nodeId": node.id, "keyEpoch": 1, "ready": "Serving", "registered": "Listed"}
        for ordinal, node in enumerate(nodes)
    ]
    assert (world.status["nodeId"], world.status["replicaCount"], world.status["readyReplicas"]) == (nodes[0].id, 2, 2)
    assert world.status["phase"] == "Serving"


async def test_scaling_up_leaves_the_replica_that_is_there_alone(world):
    world.apply()
    await world.pod(1)
    await world.role.reconcile(KEY)
    (first,) = world.live()
    world.scale(2)
    await world.role.reconcile(KEY)
    assert world.live() == [first]
    assert world.condition("Ready") == ("False", "PodPending")  # not as many as wanted
    assert world.status["readyReplicas"] == 1
    await world.pod(2, ordinal=1)
    await world.role.reconcile(KEY)
    assert world.live()[0] == first
    assert len(world.live()) == 2
    assert world.condition("Ready") == ("True", "Serving")


async def test_scaling_down_drains_the_last_replica_then_retires_it_then_takes_it_away(world):
    stays, goes = await two(world)
    stays.circuits.add("somebody's")
    goes.circuits.add("somebody's")
    world.scale(1)
    assert await world.role.reconcile(KEY) < 10
    assert (stays.draining, goes.draining) == (False, True)
    assert [node.status for node in world.live()] == [NodeStatus.ACTIVE, NodeStatus.DRAINING]
    assert world.named("relay1-alpha") == {DEPLOYMENTS.plural, SERVICES.plural}
    assert world.replica(1)["ready"] == "Draining"
    assert "leavingSince" in world.replica(1)
    assert world.condition("Ready") == ("True", "Serving")  # those that are to stay
    goes.circuits.clear()
    await world.role.reconcile(KEY)
    assert [node.status for node in world.chain.nodes.values()] == [NodeStatus.ACTIVE, NodeStatus.RETIRED]
    assert world.named("relay1-alpha") == set()
    assert [item["ordinal"] for item in world.status["replicas"]] == [0]
    assert len(world.named("relay-alpha")) == 3


async def test_a_leaving_replica_waits_no_longer_than_it_may_whoever_looks(world):
    _, goes = await two(world)
    goes.circuits.add("somebody's")
    world.scale(1)
    await world.role.reconcile(KEY)
    await world.role.stop()
    world.role = RelayRole(world.context)  # another operator: the time is in the status
    world.now += 59
    await world.role.reconcile(KEY)
    assert len(world.live()) == 2
    world.now += 1
    await world.role.reconcile(KEY)
    assert len(world.live()) == 1


async def test_a_leaving_replica_that_is_wanted_again_serves_on_with_its_keys(world):
    _, relay = await two(world)
    relay.circuits.add("somebody's")
    before = world.live()
    world.scale(1)
    await world.role.reconcile(KEY)
    world.scale(2)
    await world.role.reconcile(KEY)
    assert not relay.draining
    assert world.live() == before
    assert "leavingSince" not in world.replica(1)


async def test_a_replica_is_not_forgotten_before_it_is_retired_on_chain(world):
    await two(world)
    world.scale(1)
    world.chain.down = True
    with pytest.raises(ChainUnavailable):
        await world.role.reconcile(KEY)
    assert world.named("relay1-alpha") == {DEPLOYMENTS.plural, SERVICES.plural}
    world.chain.down = False
    await world.role.reconcile(KEY)
    assert len(world.live()) == 1
    assert world.named("relay1-alpha") == set()


async def test_a_replica_that_no_status_knows_is_found_by_its_address(world):
    await two(world)
    world.scale(1)
    world.cluster.objects["onionrelays", "alpha"]["status"]["replicas"].pop()
    await world.role.reconcile(KEY)
    assert len(world.live()) == 1
    assert world.named("relay1-alpha") == set()


async def test_a_silent_replica_holds_up_no_other_and_is_named(world):
    await two(world)
    await world.pod(3, ordinal=1)
    del world.ports["10.1.0.3"]
    world.chain.time += 600
    with pytest.raises(PeerUnavailable):
        await world.role.reconcile(KEY)
    assert [node.updated_at for node in world.live()] == [NOW + 600, NOW]
    assert (world.replica(0)["ready"], world.replica(1)["ready"]) == ("Serving", "RelayUnavailable")
    ready = next(item for item in world.status["conditions"] if item["type"] == "Ready")
    assert (ready["status"], ready["message"]) == ("Unknown", "replica 1: the relay does not answer its operator")


async def test_a_deleted_relay_goes_when_its_last_replica_has_gone(world):
    relays = await two(world)
    for relay in relays:
        relay.circuits.add("somebody's")
    world.cluster.ask_deletion(ONION_RELAYS, "alpha")
    await world.role.reconcile(KEY)
    assert [node.status for node in world.live()] == [NodeStatus.DRAINING, NodeStatus.DRAINING]
    relays[0].circuits.clear()
    await world.role.reconcile(KEY)
    assert len(world.live()) == 1
    assert ("onionrelays", "alpha") in world.cluster.objects
    relays[1].circuits.clear()
    assert await world.role.reconcile(KEY) is None
    assert world.live() == []
    assert ("onionrelays", "alpha") not in world.cluster.objects


# -- identities that the owner keeps


async def test_a_new_pod_with_its_kept_identity_is_the_same_node_in_the_next_key_epoch(world):
    world.apply(identitySecretName="kept")
    key = Ed25519PrivateKey.generate()
    await world.pod(1, keys=RelayKeys(key))
    await world.role.reconcile(KEY)
    (before,) = world.live()
    relay = await world.pod(2, keys=RelayKeys(key))
    await world.role.reconcile(KEY)
    (after,) = world.chain.nodes.values()  # nothing was retired, nothing registered
    assert (after.id, after.identity_key, after.endpoint) == (before.id, before.identity_key, before.endpoint)
    assert (before.key_epoch, after.key_epoch) == (1, 2)
    assert after.onion_key == relay.keys.newest.public != before.onion_key
    RelayEntry.from_node(after, registry=REGISTRY, chain_id=CHAIN_ID)
    assert (world.status["nodeId"], world.status["keyEpoch"]) == (before.id, 2)


async def test_the_operator_passes_the_secrets_name_on_and_never_asks_for_the_secret(world):
    world.apply(identitySecretName="kept")
    await world.role.reconcile(KEY)
    pod = world.cluster.objects[DEPLOYMENTS.plural, "relay-alpha"]["spec"]["template"]["spec"]
    assert [volume["secret"]["secretName"] for volume in pod["volumes"]] == ["kept"]
    assert not any(plural == "secrets" for plural, _ in world.cluster.objects)


@pytest.mark.parametrize(("code", "reason"), [(66, "IdentityMissing"), (65, "IdentityMalformed")])
async def test_a_relay_without_a_usable_identity_is_told_in_a_condition_and_keeps_its_node(world, code, reason):
    world.apply(identitySecretName="kept")
    key = Ed25519PrivateKey.generate()
    await world.pod(1, keys=RelayKeys(key))
    await world.role.reconcile(KEY)
    (before,) = world.live()
    del world.cluster.objects[PODS.plural, "alpha-1"]
    for again in (False, True):
        world.pod_that_ends(2, code, again=again)
        await world.role.reconcile(KEY)
        assert world.condition("Ready") == ("False", reason)
    assert "veilpod relay-identity" in next(item["message"] for item in world.status["conditions"] if item["type"] == "Ready")
    assert world.live() == [before]
    await world.pod(3, keys=RelayKeys(key))  # the owner has done as it was told
    await world.role.reconcile(KEY)
    assert world.condition("Ready") == ("True", "Serving")
    assert [node.id for node in world.live()] == [before.id]


async def test_a_replica_without_an_identity_holds_up_no_other_and_can_leave(world):
    world.apply(replicas=2, identitySecretName="kept")
    await world.pod(1)
    world.pod_that_ends(2, 66, ordinal=1)
    await world.role.reconcile(KEY)
    assert (world.replica(0)["ready"], world.replica(1)["ready"]) == ("Serving", "IdentityMissing")
    assert len(world.live()) == 1
    world.scale(1)
    await world.role.reconcile(KEY)
    assert world.named("relay1-alpha") == set()


async def test_two_replicas_with_one_key_are_one_node_and_the_second_is_kept_out(world):
    world.apply(replicas=2, identitySecretName="kept")
    key = Ed25519PrivateKey.generate()
    await world.pod(1, keys=RelayKeys(key))
    await world.role.reconcile(KEY)
    (node,) = world.live()
    second = await world.pod(2, ordinal=1, keys=RelayKeys(key))
    for _ in range(3):  # nor does the entry go from one to the other
        await world.role.reconcile(KEY)
        assert world.live() == [node]
    assert (world.replica(0)["ready"], world.replica(1)["ready"]) == ("Serving", "IdentityShared")
    assert "nodeId" not in world.replica(1)
    assert world.condition("Ready") == ("False", "IdentityShared")
    assert world.condition("Registered") == ("False", "Registering")
    assert not second.informed  # so its pod is never ready
    world.scale(1)
    await world.role.reconcile(KEY)
    assert world.live() == [node]  # the one that leaves takes nothing with it


async def test_a_shared_key_is_free_again_when_its_replica_has_another(world):
    world.apply(replicas=2, identitySecretName="kept")
    key = Ed25519PrivateKey.generate()
    await world.pod(1, keys=RelayKeys(key))
    await world.role.reconcile(KEY)
    await world.pod(2, ordinal=1, keys=RelayKeys(key))
    await world.role.reconcile(KEY)
    await world.pod(3, ordinal=1)
    await world.role.reconcile(KEY)
    assert len(world.live()) == 2
    assert world.condition("Ready") == ("True", "Serving")


async def test_another_secret_is_another_node_and_the_old_one_is_retired(world):
    world.apply(identitySecretName="kept")
    await world.pod(1)
    await world.role.reconcile(KEY)
    (old,) = world.live()
    template = world.cluster.objects[DEPLOYMENTS.plural, "relay-alpha"]["spec"]["template"]
    world.cluster.objects["onionrelays", "alpha"]["spec"]["identitySecretName"] = "other"
    await world.role.reconcile(KEY)
    assert world.cluster.objects[DEPLOYMENTS.plural, "relay-alpha"]["spec"]["template"] != template  # rolled out, after a drain
    await world.pod(2)
    await world.role.reconcile(KEY)
    assert world.chain.nodes[old.id].status is NodeStatus.RETIRED
    assert len(world.live()) == 1
