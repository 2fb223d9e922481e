"""A whole onion network with agents on loopback: real relays, real stores, real launchers, and operators of a few lines.

What Kubernetes does for a pod is done here by hand: volumes are directories, the startup probe is a loop, the program's container is a
process.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from tests.support import netguards, stores

from veilpod.agent.service import Service
from veilpod.agent.settings import Settings
from veilpod.core import dataset
from veilpod.core.agent_messages import Configuration, MailboxEntry, NodeKey, Published
from veilpod.core.canonical import from_hex, to_hex
from veilpod.core.fields import address_bytes
from veilpod.core.grant import make_grant
from veilpod.core.ids import NodeId, PodUid, ResourceId, ServerIndex, TaskId
from veilpod.core.keys import SigningKey, checksum_address, node_keys
from veilpod.core.meeting import ForStore, descriptors_document, open_descriptor, parse_descriptors
from veilpod.core.onion.directory import RelayEntry
from veilpod.core.sealing import HybridPrivateKey, recipient_text
from veilpod.core.statement import countersign, parse_statement, statement_nonce
from veilpod.core.store_messages import DeliveryObject, DeliveryOrder, SandboxRef, TaskTerms
from veilpod.core.task.spec import Deadlines, Input, Payment, Program, Quorum, ResultSpec, TaskRole, TaskSpec, Topology
from veilpod.core.typed_data import Domain, sandbox_key_digest
from veilpod.net.control import Link, connect, control_certificate
from veilpod.net.framing import json_frame, read_json_frame
from veilpod.net.onion import OnionProxy
from veilpod.relay.router import Relay
from veilpod.store.service import Service as StoreService

TASK = TaskId(b"\x77" * 32)
REGISTRY = checksum_address(b"\x0e" * 20)
DOMAIN = Domain(chain_id=31337, contract=checksum_address(b"\x0c" * 20))
REQUESTER = HybridPrivateKey.from_bytes(b"\x09" * 96)
OWNER = SigningKey(secret=b"\x21" * 32)
MAILBOX, FIRST_STORE = NodeId(50), 51
SEAL = X25519PrivateKey.from_private_bytes(stores.KEYS.seal.private_bytes_raw())
SOURCE = pathlib.Path(__file__).parents[2] / "operator" / "launcher" / "launch.c"


@contextlib.asynccontextmanager
async def relays(count: int = 4) -> AsyncIterator[tuple[list[Relay], list[RelayEntry]]]:
    """Relays of different owners that know each other."""
    running = [Relay() for _ in range(count)]
    try:
        entries = []
        for number, relay in enumerate(running, start=1):
            owner = checksum_address(bytes([number]) * 20)
            entries.append(
                RelayEntry(
                    node_id=NodeId(number),
                    owner=owner,
                    identity_key=relay.keys.identity_public,
                    onion_key=relay.keys.newest.public,
                    key_epoch=1,
                    host="127.0.0.1",
                    port=await relay.listen("127.0.0.1", 0),
                    proof=relay.keys.prove(owner=owner, key_epoch=1, registry=REGISTRY, chain_id=31337),
                    updated_at=int(time.time()),
                    registry=REGISTRY,
                    chain_id=31337,
                )
            )
        for relay in running:
            relay.use_directory(entries)
        yield running, entries
    finally:
        for relay in running:
            await relay.close()


@dataclasses.dataclass(frozen=True)
class SealedObject:
    """A data set as it rests in a store."""

    name: str
    plain: bytes
    key: bytes
    sealed: bytes

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.sealed).digest()

    @property
    def resource(self) -> ResourceId:
        return ResourceId(hashlib.sha256(self.name.encode()).digest())


def sealed_object(name: str, plain: bytes) -> SealedObject:
    key, custodian = os.urandom(32), HybridPrivateKey.from_bytes(b"\x08" * 96).public_bytes
    header = dataset.make_header(name=name, custodian=custodian, data_key=key, prefix=os.urandom(8))
    return SealedObject(name=name, plain=plain, key=key, sealed=b"".join(dataset.seal_stream([plain], header=header, data_key=key)))


def star(objects: Sequence[SealedObject], *, port: int, price: int = 1, compute: int = 60) -> TaskSpec:
    """A hub and one site per object."""
    return TaskSpec(
        program=Program(image="example.org/p@sha256:" + "a" * 64, command=("python3",), env=(), cpu="1", memory=1 << 28),
        roles=(TaskRole(name="hub", replicas=1, args=()), TaskRole(name="site", replicas=len(objects), args=())),
        topology=Topology(type="Star", hub="hub", ports=(port,)),
        inputs=tuple(
            Input(
                dataset=item.name,
                resource=item.resource,
                node=NodeId(FIRST_STORE + number),
                owner=OWNER.address,
                digest=item.digest,
                size=len(item.sealed),
                to=ServerIndex(number + 1),
                path="train/data.csv",
            )
            for number, item in enumerate(objects)
        ),
        result=ResultSpec(sender=ServerIndex(0), recipient=recipient_text(REQUESTER.public_bytes), max_size=1 << 22, mailbox=MAILBOX),
        payment=Payment(per_server=1, per_transfer_mib=price, channel_deposit=1),
        deadlines=Deadlines(schedule=60, inputs=60, compute=compute, total=600),
        quorum=Quorum(),
        hops=3,
        relays="Any",
        sandbox_class="standard",
    )


# A program of two roles: sites send their data to the hub's port, the hub counts the bytes.
HUB = """
import pathlib, socket, sys
address, port, _, out, _ = sys.argv[1:]
server = socket.create_server((address, int(port)))
total = 0
for _ in range({sites}):
    connection, _ = server.accept()
    while data := connection.recv(65536):
        total += len(data)
    connection.sendall(b"thanks")
    connection.close()
pathlib.Path(out, "model.txt").write_text(str(total))
print("the hub saw", total)
"""

SITE = """
import pathlib, socket, sys, time
address, port, inputs, out, _ = sys.argv[1:]
data = pathlib.Path(inputs, "train", "data.csv").read_bytes()
connection = socket.create_connection((address, int(port)))
connection.sendall(data)
connection.shutdown(socket.SHUT_WR)
assert connection.recv(100) == b"thanks"
"""


def solo(*, compute: int = 60, max_size: int = 1 << 20) -> TaskSpec:
    """One server, no input, no peer."""
    one = star([], port=1, compute=compute)
    return dataclasses.replace(
        one,
        roles=(TaskRole(name="hub", replicas=1, args=()),),
        topology=Topology(type="None"),
        result=dataclasses.replace(one.result, max_size=max_size),
    )


def compile_launcher(target: pathlib.Path) -> pathlib.Path:
    compiler = shutil.which("gcc")
    assert compiler is not None
    subprocess.run([compiler, "-static", "-O2", "-std=gnu11", "-o", target, SOURCE], check=True)
    return target


class Sandbox:
    """One agent with its operator and its "kubelet"."""

    def __init__(
        self, index: int, root: pathlib.Path, *, launcher: pathlib.Path, spec: TaskSpec, guard: netguards.Fence, netguard_seconds: float
    ) -> None:
        self.index = ServerIndex(index)
        self.spec = spec
        self.chain_key = SigningKey(secret=bytes([0x60 + index]) * 32)
        self.uid = PodUid(f"pod-{index}")
        self.root = root / f"sandbox-{index}"
        self.loopback = f"127.0.1.{index + 1}"
        for name in ("in", "out", "scratch", "bin", "program", "seal", "life"):
            (self.root / name).mkdir(parents=True)
        (self.root / "uid").write_text(self.uid)
        self.settings = Settings(
            control=("127.0.0.1", 0),
            ready=("127.0.0.1", 0),
            operator_cert=control_certificate(node_keys(self.chain_key).control),
            allow=(guard.peer,),
            canaries=(guard.canary,),
            inputs=self.root / "in",
            outputs=self.root / "out",
            scratch=self.root / "scratch",
            binaries=self.root / "bin",
            program_socket=str(self.root / "program" / "s"),
            seal_socket=str(self.root / "seal" / "s"),
            marker=self.root / "life" / "born",
            pod_uid=self.root / "uid",
            launcher=launcher,
            loopback=self.loopback,
            netguard_seconds=netguard_seconds,
            release_seconds=0.3,
            probe_seconds=0.2,
            guard_seconds=0.2,
        )
        self.service = Service(
            self.settings,
            lambda configuration: OnionProxy(directory=lambda: configuration().directory, hops=spec.hops, in_cluster=False),
        )
        self.events: dict[str, list[dict[str, Any]]] = {}
        self._heard = asyncio.Event()
        self._credited: dict[int, int] = {}
        self.process: asyncio.subprocess.Process | None = None
        self.link: Link

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Sandbox"]:
        serving = asyncio.create_task(self.service.run())
        async with asyncio.timeout(30):
            await self.service.control.listening.wait()
        self.link = await connect("127.0.0.1", self.service.control.port, key=node_keys(self.chain_key).control)
        listening = asyncio.create_task(self._listen())
        try:
            yield self
        finally:
            if self.process is not None and self.process.returncode is None:
                self.process.kill()
                await self.process.wait()
            listening.cancel()
            await self.link.close()
            serving.cancel()
            await asyncio.gather(listening, serving, return_exceptions=True)

    def configuration(self, owners: Sequence[SigningKey], directory: Sequence[RelayEntry], mailbox_port: int) -> Configuration:
        return Configuration(
            task=TASK,
            index=self.index,
            incarnation=1,
            pod_uid=self.uid,
            spec=self.spec,
            servers=tuple(key.address for key in owners),
            directory=tuple(directory),
            mailbox=MailboxEntry(node=MAILBOX, onion_key=stores.SEAL_PUBLIC, host="127.0.0.1", port=mailbox_port),
            stores=tuple(NodeKey(node=node, owner=OWNER.address, onion_key=stores.SEAL_PUBLIC) for node in self.spec.stores),
            policy_hash=b"\x06" * 32,
            tier="T0",
            host_access_denied=True,
            confinement_required=True,
            agent_image="sha256:" + "c" * 64,
            program_image="sha256:" + "a" * 64,
            nonce=statement_nonce(task=TASK, pod_uid=self.uid, incarnation=1, server=self.chain_key.address),
            domain=DOMAIN,
        )

    async def until(self, event: str, *, count: int = 1, seconds: float = 60) -> dict[str, Any]:
        """Wait for an event of the agent. Raises AssertionError with what came instead."""
        try:
            async with asyncio.timeout(seconds):
                while len(self.events.get(event, [])) < count:
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError as error:
            raise AssertionError(f"sandbox {self.index} never said {event!r} ({count}); it said {self.events}") from error
        return self.events[event][count - 1]

    async def make_offer(self) -> None:
        """What an operator does with a statement: check it against the live pod, then vouch for it."""
        answer = await self.link.call("statement")
        statement = parse_statement(answer["statement"])
        assert statement.pod_uid == self.uid
        assert statement.tls_key == self.link.tls_key
        await self.link.call("offer", serverSignature=to_hex(countersign(statement, self.chain_key)))

    async def accept(self) -> None:
        """Sign the task key that the agents met under."""
        offers = await self.until("offers")
        digest = sandbox_key_digest(
            DOMAIN, TASK, key=checksum_address(from_hex(offers["key"])), statements_hash=from_hex(offers["statementsHash"])
        )
        await self.link.call("acceptance", signature=to_hex(self.chain_key.sign(digest)))

    async def start_program(self, code: str) -> None:
        """The kubelet: wait for the startup probe, then start the program's container."""
        async with asyncio.timeout(30):
            while not self.service.ready_port:  # noqa: ASYNC110 - a kubelet polls, too
                await asyncio.sleep(0.02)
            _, writer = await asyncio.open_connection("127.0.0.1", self.service.ready_port)
            writer.close()
        port = self.spec.topology.ports[0] if self.spec.topology.ports else 0
        arguments = [self.root / "bin" / "launch", "--socket", self.settings.program_socket, "--"]
        arguments += [sys.executable, "-c", code, self.loopback, str(port), self.root / "in", self.root / "out", str(int(self.index))]
        self.process = await asyncio.create_subprocess_exec(*map(str, arguments), stdout=subprocess.DEVNULL)

    async def _listen(self) -> None:
        async for sequence, event, data in self.link.events():
            self.events.setdefault(event, []).append(data)
            if event == "receipt":
                await self._pay(data)
            await self.link.acknowledge(sequence)
            self._heard.set()

    async def _pay(self, data: dict[str, Any]) -> None:
        # As if both operators had co-signed a state for every receipt at once.
        peer, receipt = data["peer"], data["receipt"]
        if not self._received(receipt):
            self._credited[peer] = self._credited.get(peer, 0) + receipt["bytes"]
            await self.link.call("credit", peer=peer, bytes=self._credited[peer])

    def _received(self, receipt: dict[str, Any]) -> bool:
        other = next(index for index in receipt["link"] if index != self.index)
        other_key = SigningKey(secret=bytes([0x60 + other]) * 32)
        we_are_a = address_bytes(self.chain_key.address) < address_bytes(other_key.address)
        return (receipt["direction"] == 0) == we_are_a


async def serve_object(service: StoreService, item: SealedObject) -> None:
    """Put an object into a store, as `veilpod dataset put` does."""
    service.blobs.announce(item.digest, len(item.sealed))
    async with stores.stream_to(service.upload.port) as stream:
        await stream.write(json_frame({"put": "dataset", "digest": to_hex(item.digest), "size": len(item.sealed)}, limit=4096))
        await read_json_frame(stream, limit=4096)
        await stream.write(item.sealed)
        assert (await read_json_frame(stream, limit=4096))["ok"] == {"stored": True}


async def deliver(operator: stores.Linked, item: SealedObject, *, node: int, index: int, published: Published, seconds: int = 60) -> None:
    """The storage operator: follow KeyPublished, order the delivery, grant what is wanted."""
    sealed = next(d for d in parse_descriptors(published.descriptors) if d.to == ForStore(node=NodeId(node)))
    descriptor = open_descriptor(sealed, SEAL, task=TASK)
    sandbox = SandboxRef(task=TASK, index=ServerIndex(index))
    await operator.link.deliver(
        DeliveryOrder(
            sandbox=sandbox,
            objects=(DeliveryObject(resource=item.resource, dataset=item.name, digest=item.digest, size=len(item.sealed)),),
            statement=published.statements[index],
            relay=descriptor.relay,
            cookie=descriptor.cookie,
            service_key=descriptor.service_key,
            hops=3,
            in_cluster=False,
            constant_rate=0,
            seconds=seconds,
        )
    )
    wanted = await operator.event("grant-wanted")
    statement = parse_statement(wanted["statement"])
    grant = make_grant(item.key, statement=statement, resource=item.resource, digest=item.digest, signer=OWNER)
    await operator.link.decide(sandbox, item.resource, grant)


def terms(sandboxes: Sequence[Sandbox]) -> TaskTerms:
    """What the requester's operator announces to its mailbox."""
    spec = sandboxes[0].spec
    return TaskTerms(
        task=TASK,
        owners=tuple(sandbox.chain_key.address for sandbox in sandboxes),
        result_from=spec.result.sender,
        max_size=spec.result.max_size,
        domain=DOMAIN,
    )


def free_port() -> int:
    with socket.create_server(("127.0.1.9", 0)) as probe:
        return int(probe.getsockname()[1])


class World:
    """Everything that stands before a task begins."""

    def __init__(self, root: pathlib.Path, launcher: pathlib.Path) -> None:
        self._root, self._launcher = root, launcher
        self.relays: list[Relay] = []
        self.stack = contextlib.AsyncExitStack()
        self.sandboxes: list[Sandbox] = []
        self.stores: list[stores.Linked] = []
        self.publish = True
        self.netguard_seconds = 30.0
        self.fence: netguards.Fence
        self.mailbox: stores.Linked
        self.published: Published

    async def assemble(self) -> None:
        """Configure and offer: from here on the sandboxes meet by themselves."""
        owners = [sandbox.chain_key for sandbox in self.sandboxes]
        await self.mailbox.link.announce_task(terms(self.sandboxes))
        port = self.mailbox.service.listener.port
        for sandbox in self.sandboxes:
            await sandbox.link.call("configure", **sandbox.configuration(owners, self.mailbox.directory, port).document())
        for sandbox in self.sandboxes:
            await sandbox.until("ready")
            await sandbox.make_offer()

    async def meet(self) -> None:
        """Configure, offer, accept, publish: what operators and the chain do."""
        await self.assemble()
        for sandbox in self.sandboxes:
            await sandbox.accept()
        for sandbox in self.sandboxes:
            await sandbox.until("accepted")
        offers = await self.sandboxes[0].until("offers")
        acceptances = await self.mailbox.link.acceptances(TASK)
        self.published = Published(
            key=checksum_address(from_hex(offers["key"])),
            statements=tuple(from_hex(digest) for digest in offers["statements"]),
            descriptors=descriptors_document(acceptances),
        )
        for sandbox in self.sandboxes if self.publish else []:
            await sandbox.link.call("published", **self.published.document())

    async def start(self, spec: TaskSpec) -> None:
        """One sandbox for each server of the specification."""
        for index in range(len(spec.servers)):
            sandbox = Sandbox(
                index, self._root, launcher=self._launcher, spec=spec, guard=self.fence, netguard_seconds=self.netguard_seconds
            )
            await self.stack.enter_async_context(sandbox.running())
            self.sandboxes.append(sandbox)

    async def deliver(self, objects: Sequence[SealedObject]) -> None:
        """What the storage operators do, for every input at once."""
        async with asyncio.TaskGroup() as group:
            for number, (operator, item) in enumerate(zip(self.stores, objects, strict=False)):
                group.create_task(deliver(operator, item, node=FIRST_STORE + number, index=number + 1, published=self.published))
