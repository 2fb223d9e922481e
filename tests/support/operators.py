"""Whole releases in one process: real operators (queue, roles, adapter, journals) over a real chain; clusters in memory, scripted agents.

What kopf does is one line here: a change of an object enqueues its key.
"""

import asyncio
import contextlib
import dataclasses
import pathlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519
from tests.support import stores
from tests.support.anvil import CHAIN_ID, Anvil, account
from tests.support.fake_cluster import FakeCluster, true_conditions
from tests.support.fences import put_fences
from tests.support.scripted_agents import Kubelet, Network

from veilpod import chain
from veilpod.control import config as configs
from veilpod.control.app import Operator
from veilpod.control.context import Context
from veilpod.control.events import EventRecorder
from veilpod.control.metrics import Metrics
from veilpod.control.role import Key, Role
from veilpod.control.roles.compute import ComputeRole
from veilpod.control.roles.requester import RequesterRole
from veilpod.control.tasks import Tasks
from veilpod.core import identity
from veilpod.core.entities import Role as NodeRole
from veilpod.core.keys import SigningKey, node_keys
from veilpod.core.kinds import (
    COMPUTE_TASKS,
    OWN_KINDS,
    PODS,
    SANDBOX_CLASSES,
    SERVICES,
)
from veilpod.core.sealing import HybridPrivateKey, recipient_text
from veilpod.net.control import connect
from veilpod.ports import ControlLink
from veilpod.store.service import Service

AGENT_IMAGE = "registry/agent@sha256:" + "a" * 64
RECIPIENT = HybridPrivateKey.generate()


@dataclasses.dataclass
class Release:
    """One party: its cluster, its operator, its keys. `stop` and `start` are a killed and a restarted operator process."""

    name: str
    key: SigningKey
    cluster: FakeCluster
    config: configs.Config
    make_role: Callable[[Context], Role]
    connect: Any
    anvil: Anvil
    ahead: list[int]  # how many seconds everybody's clock is ahead of ours
    tasks: Tasks | None = None
    operator: Operator | None = None
    kubelet: Kubelet | None = None

    async def start(self) -> None:
        self.tasks = Tasks()
        await self.tasks.__aenter__()
        tasks, metrics = self.tasks, Metrics()

        async def connect_chain() -> chain.Chain:
            assert self.anvil.addresses
            return await chain.connect(
                self.anvil.url,
                chain_id=CHAIN_ID,
                addresses=self.anvil.addresses,
                state_dir=self.config.state_dir / "chain",
                key=self.key,
                depth=0,
                poll_seconds=0.05,
            )

        def make_context(link: chain.Chain) -> Context:
            assert self.operator
            return Context(
                config=self.config,
                cluster=self.cluster,
                reader=link.reader,
                writer=link.writer,
                key=self.key,
                node_keys=node_keys(self.key),
                clock=self._clock,
                connect=self.connect,
                events=EventRecorder(self.cluster, instance=self.name, clock=self._clock),
                metrics=metrics,
                tasks=tasks,
                enqueue=self.operator.enqueue,
            )

        async def make_roles(context: Context) -> Sequence[Role]:
            return [self.make_role(context)]

        self.operator = Operator(
            connect_chain=connect_chain, make_context=make_context, make_roles=make_roles, metrics=metrics, tasks=tasks
        )
        self.cluster.listeners.append(self._enqueue)
        self.operator.start()

    async def stop(self) -> None:
        if self.operator is not None:
            self.cluster.listeners.remove(self._enqueue)
            operator, self.operator = self.operator, None
            await operator.stop()

    def _clock(self) -> float:
        return time.time() + self.ahead[0]

    def _enqueue(self, change: str, kind: Any, body: dict[str, Any]) -> None:
        if self.operator and kind.plural in OWN_KINDS and change != "DELETED":
            self.operator.enqueue(Key(kind=kind.plural, name=body["metadata"]["name"]))

    async def ready(self) -> None:
        assert self.operator
        async with asyncio.timeout(90):
            while self.operator.ready() is not None:  # noqa: ASYNC110 - a probe is polled
                await asyncio.sleep(0.02)

    def has_seen(self, block: int) -> bool:
        """Whether the operator, if there is one, has a chain as long as this."""
        return self.operator is None or (self.operator._chain is not None and self.operator._chain.head_block >= block)

    async def resync(self) -> None:
        """What happens each minute."""
        operator = self.operator
        assert operator
        for role in operator._roles:
            for key in await role.resync():
                operator.enqueue(key)

    def object(self, kind: Any, name: str) -> dict[str, Any] | None:
        return self.cluster.objects.get((kind.plural, self.name, name))

    def objects(self, kind: Any) -> list[dict[str, Any]]:
        return [body for (plural, _, _), body in self.cluster.objects.items() if plural == kind.plural]


@dataclasses.dataclass
class World:
    """A chain, one requester, three computing servers, a store's node and a relay in the registry."""

    anvil: Anvil
    requester: Release
    servers: list[Release]
    network: Network
    mailbox: Service
    ahead: list[int]

    async def skip(self, seconds: int) -> None:
        """Let time pass; then everybody looks again."""
        await self.advance(seconds)
        await self.resync()

    async def advance(self, seconds: int) -> None:
        """Let time pass on the chain, which everybody sees, and on every clock."""
        self.anvil.advance(seconds)
        self.ahead[0] += seconds
        newest = int(self.anvil.rpc("eth_blockNumber"), 16)
        await self.until(lambda: all(release.has_seen(newest) for release in (self.requester, *self.servers)))

    async def resync(self) -> None:
        for release in (self.requester, *self.servers):
            if release.operator is not None:
                await release.resync()

    def apply(self, name: str = "job", **changes: Any) -> None:
        spec: dict[str, Any] = {
            "program": {"image": "registry/fedavg@sha256:" + "b" * 64, "command": ["python"]},
            "roles": [{"name": "hub", "replicas": 1}, {"name": "site", "replicas": 2}],
            "topology": {"type": "Star", "hub": "hub", "ports": [9092]},
            "inputs": [
                {"dataset": "north", "to": {"role": "site", "index": 0}, "path": "train.csv"},
                {"dataset": "south", "to": {"role": "site", "index": 1}, "path": "train.csv"},
            ],
            "result": {"from": "hub", "recipient": recipient_text(RECIPIENT.public_bytes), "maxSize": "1Mi"},
            "payment": {"budget": "0.05", "perServer": "0.01", "perTransferMiB": "0.0001", "channelDeposit": "0.001"},
            "deadlines": {"schedule": "2m", "inputs": "5m", "compute": "30m", "total": "1h"},
            "quorum": {"role": "site", "min": 2},
        }
        self.requester.cluster.put(COMPUTE_TASKS, {"metadata": {"name": name}, "spec": spec | changes}, namespace=self.requester.name)

    def task(self, name: str = "job") -> dict[str, Any]:
        body = self.requester.object(COMPUTE_TASKS, name)
        assert body is not None
        return body

    async def until(self, reached: Callable[[], Any], timeout: float = 120.0) -> None:
        """Wait; what the world looks like is part of the failure."""
        try:
            async with asyncio.timeout(timeout):
                while not reached():  # noqa: ASYNC110 - the condition spans three clusters and a chain
                    await asyncio.sleep(0.02)
        except TimeoutError as error:
            raise AssertionError(f"not reached: {self.describe()}") from error

    async def until_true(self, kind: str, name: str = "job", timeout: float = 120.0) -> None:
        await self.until(lambda: kind in true_conditions(self.task(name)), timeout)

    def describe(self) -> str:
        lines = []
        for release in (self.requester, *self.servers):
            for (plural, _, name), body in release.cluster.objects.items():
                if plural in OWN_KINDS and "status" in body:
                    shown = [f"{c['type']}={c['status']}({c['reason']})" for c in body["status"].get("conditions", [])]
                    lines.append(f"{release.name} {plural}/{name} {body['status'].get('phase')} {' '.join(shown)}")
        return "\n".join(lines)


@contextlib.asynccontextmanager
async def world(
    anvil: Anvil, directory: pathlib.Path, *, watchtowers: Sequence[dict[str, str]] = (), assets: Sequence[str] = ()
) -> AsyncIterator[World]:
    """Everything up and ready. Servers hand their channels' states to the watchtowers, `{url, address}` each, and accept the tokens."""
    assert anvil.addresses
    await _furnish(anvil, directory)
    requester_key = account(0)
    async with _store(directory / "mailbox", requester_key) as service:
        network = Network(service.mailbox)

        async def connect_store(host: str, port: int, *, pinned_tls_key: bytes | None = None) -> ControlLink:
            return await connect("127.0.0.1", service.control.port, key=node_keys(requester_key).control, pinned_tls_key=pinned_tls_key)

        ahead = [0]
        requester = _requester(anvil, directory, requester_key, connect_store, ahead)
        servers = [_server(anvil, directory, index, network, ahead, watchtowers, assets) for index in (1, 2, 3)]
        made = World(anvil=anvil, requester=requester, servers=servers, network=network, mailbox=service, ahead=ahead)
        try:
            for release in (requester, *servers):
                await release.start()
            for release in (requester, *servers):
                await release.ready()
            await _stakes_are_seen(requester, servers)
            yield made
        finally:
            for release in (requester, *servers):
                await release.stop()


async def _stakes_are_seen(requester: Release, servers: list[Release]) -> None:
    """The requester asks for the stake that it sees servers have."""
    assert requester.operator
    assert requester.operator._chain
    reader = requester.operator._chain.reader
    async with asyncio.timeout(60):
        while not all([sum(await reader.stake_of(server.key.address)) for server in servers]):  # noqa: ASYNC110 - the chain is polled
            await asyncio.sleep(0.02)


def _requester(anvil: Anvil, directory: pathlib.Path, key: SigningKey, connect_store: Any, ahead: list[int]) -> Release:
    cluster = FakeCluster()
    cluster.put(SERVICES, {"metadata": {"name": "mailbox"}, "spec": {"clusterIP": "127.0.0.1"}}, namespace="requester")
    pod = {"metadata": {"name": "mailbox-0"}, "spec": {}, "status": {"phase": "Running", "podIP": "127.0.0.1"}}
    cluster.put(PODS, pod, namespace="requester")
    config = _config("requester", directory, anvil, roles=["requester"], requester={"mailboxService": "mailbox"})
    return Release(
        name="requester", key=key, cluster=cluster, config=config, make_role=RequesterRole, connect=connect_store, anvil=anvil, ahead=ahead
    )


def _server(
    anvil: Anvil,
    directory: pathlib.Path,
    index: int,
    network: Network,
    ahead: list[int],
    watchtowers: Sequence[dict[str, str]],
    assets: Sequence[str],
) -> Release:
    name, cluster = f"server-{index}", FakeCluster()
    sandboxes = f"{name}-sandboxes"
    put_fences(cluster, sandboxes)
    cluster.put(SANDBOX_CLASSES, {"metadata": {"name": "standard"}, "spec": {"tier": "T0", "canaries": ["169.254.169.254:80"]}})
    config = _config(
        name,
        directory,
        anvil,
        roles=["compute"],
        sandboxNamespace=sandboxes,
        images={"agent": AGENT_IMAGE},
        compute={"capacity": 4, "stake": str(10**17), "relayPort": 9001, "watchtowers": list(watchtowers), "assets": list(assets)},
    )
    release = Release(
        name=name,
        key=account(index),
        cluster=cluster,
        config=config,
        make_role=ComputeRole,
        connect=network.connect,
        anvil=anvil,
        ahead=ahead,
    )
    release.kubelet = Kubelet(cluster, network, prefix=f"10.{index}.0")
    return release


def _config(name: str, directory: pathlib.Path, anvil: Anvil, **more: Any) -> configs.Config:
    assert anvil.addresses
    contracts = {"registry": anvil.addresses.registry, "scheduler": anvil.addresses.scheduler, "channels": anvil.addresses.channels}
    return configs.parse(
        {
            "namespace": name,
            "chain": {"rpcUrl": anvil.url, "chainId": CHAIN_ID, "contracts": contracts},
            "stateDir": str(directory / name),
            "keyFile": "/nowhere",
            **more,
        }
    )


async def _furnish(anvil: Anvil, directory: pathlib.Path) -> None:
    """Three relays of different owners, a storage node and two data sets in the registry."""
    assert anvil.addresses
    for number in (6, 7):
        await _list_relay(anvil, directory, number)
    key = ed25519.Ed25519PrivateKey.generate()
    async with await chain.connect(
        anvil.url, chain_id=CHAIN_ID, addresses=anvil.addresses, state_dir=directory / "furnish", key=account(8), depth=0, poll_seconds=0.05
    ) as link:
        onion_key = b"\x09" * 32
        proof = identity.make_proof(
            key, owner=account(8).address, onion_key=onion_key, key_epoch=1, registry=anvil.addresses.registry, chain_id=CHAIN_ID
        )
        for role, endpoint in ((NodeRole.RELAY, "10.9.9.9:9001"), (NodeRole.STORAGE, "10.9.9.8:9101")):
            node = await link.writer.register(
                roles=role,
                capacity=0,
                identity_key=key.public_key().public_bytes_raw(),
                onion_key=onion_key,
                endpoint=endpoint,
                proof=proof,
            )
        for name in ("north", "south"):
            await link.writer.add_resource(node=node, name=name, digest=b"\x0d" * 32, size=1000)


async def _list_relay(anvil: Anvil, directory: pathlib.Path, number: int) -> None:
    assert anvil.addresses
    key, onion_key, owner = ed25519.Ed25519PrivateKey.generate(), bytes([number]) * 32, account(number)
    proof = identity.make_proof(
        key, owner=owner.address, onion_key=onion_key, key_epoch=1, registry=anvil.addresses.registry, chain_id=CHAIN_ID
    )
    async with await chain.connect(
        anvil.url,
        chain_id=CHAIN_ID,
        addresses=anvil.addresses,
        state_dir=directory / f"relay-{number}",
        key=owner,
        depth=0,
        poll_seconds=0.05,
    ) as link:
        await link.writer.register(
            roles=NodeRole.RELAY,
            capacity=0,
            identity_key=key.public_key().public_bytes_raw(),
            onion_key=onion_key,
            endpoint=f"10.{number}.9.9:9001",
            proof=proof,
        )


@contextlib.asynccontextmanager
async def _store(data: pathlib.Path, key: SigningKey) -> AsyncIterator[Service]:
    keys, stores.KEYS = stores.KEYS, node_keys(key)
    try:
        async with stores.running(data) as service:
            yield service
    finally:
        stores.KEYS = keys
