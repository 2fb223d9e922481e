"""From a published key to an opened input: real relays, real store, real role; the sandbox's side is played by the test."""

import asyncio
import dataclasses
import pathlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.support import onion_network, sandboxes
from tests.support.worlds import NOW
from tests.unit.control.storage_world import KEY, PLAINTEXT, World, sealed, world

from veilpod.core import dataset
from veilpod.core.canonical import canonical, to_hex
from veilpod.core.dataset_spec import resource_id
from veilpod.core.entities import ChainTask, Node, NodeStatus, Role, TaskPhase, Terms
from veilpod.core.grant import open_grant, parse_grant, verify_grant
from veilpod.core.ids import Address, NodeId, ServerIndex, TaskId
from veilpod.core.kinds import DATASETS
from veilpod.core.meeting import Descriptor, ForStore, Offer, seal_descriptor
from veilpod.core.statement import countersign, sign_statement
from veilpod.core.store_messages import GrantWanted, SandboxRef
from veilpod.core.task.spec import Deadlines, Input, Payment, Program, Quorum, ResultSpec, TaskRole, TaskSpec, Topology, spec_hash
from veilpod.errors import ProtocolViolation, VeilpodError
from veilpod.net.framing import json_frame, read_json_frame
from veilpod.net.onion import OnionProxy
from veilpod.ports import RendezvousPoint, Stream

TASK = TaskId(b"\x11" * 32)
IMAGE = "registry.example/fedavg@sha256:" + "b" * 64
REQUESTER = sandboxes.keys(8).server.address
SANDBOX = sandboxes.keys(1)
SERVER_NODE = NodeId(50)
RESOURCE = resource_id(KEY.address, "north")
HELLO = {"hello": 1, "taskId": to_hex(TASK), "dataset": "north", "resource": to_hex(RESOURCE)}


@dataclasses.dataclass
class Meeting:
    """A task that runs and waits for its input."""

    here: World
    node: NodeId
    point: RendezvousPoint
    offer: Offer
    sealed: bytes

    def grant_wanted(self, offer: Offer | None = None) -> GrantWanted:
        shown = offer or self.offer
        return GrantWanted(
            sandbox=SandboxRef(task=TASK, index=ServerIndex(0)),
            resource=RESOURCE,
            statement=shown.statement.document(),
            signature=shown.signature,
            server_signature=shown.server_signature,
        )

    async def verdict(self, offer: Offer | None = None) -> Any:
        return await self.here.role._deliveries._verdict(self.grant_wanted(offer))

    def change(self, **fields: Any) -> None:
        self.here.chain.tasks[TASK] = dataclasses.replace(self.here.chain.tasks[TASK], **fields)

    def change_policy(self, **policy: Any) -> None:
        self.here.cluster.objects["datasets", "north"]["spec"]["policy"] = policy


def specification(node: NodeId, data: bytes, digest: bytes) -> TaskSpec:
    return TaskSpec(
        program=Program(image=IMAGE, command=("run",), env=(), cpu="1", memory=1 << 28),
        roles=(TaskRole(name="solo", replicas=1, args=()),),
        topology=Topology(),
        inputs=(
            Input(
                dataset="north",
                resource=RESOURCE,
                node=node,
                owner=KEY.address,
                digest=digest,
                size=len(data),
                to=ServerIndex(0),
                path="train.csv",
            ),
        ),
        result=ResultSpec(sender=ServerIndex(0), recipient="veil1x", max_size=1 << 20, mailbox=NodeId(9)),
        payment=Payment(per_server=1, per_transfer_mib=1, channel_deposit=1),
        deadlines=Deadlines(schedule=60, inputs=60, compute=600, total=1000),
        quorum=Quorum(),
        hops=3,
        relays="Any",
        sandbox_class="standard",
    )


def task_of(spec: TaskSpec, *, node: NodeId, statement: bytes, descriptors: bytes) -> ChainTask:
    terms = Terms(servers=1, per_server=1, stake=0, schedule_by=NOW + 60, key_by=NOW + 120, complete_by=NOW + 720, report_by=NOW + 1000)
    return ChainTask(
        id=TASK,
        phase=TaskPhase.RUNNING,
        requester=REQUESTER,
        stopping=False,
        reported=0,
        escrow=1,
        terms=terms,
        spec_hash=spec_hash(spec.encode()),
        key=SANDBOX.signing.address,
        result_hash=None,
        compute=(SERVER_NODE,),
        stores=(node,),
        spec=spec.encode(),
        statements=(statement,),
        descriptors=descriptors,
        published_key=SANDBOX.signing.address,
    )


def server_node(owner: Address) -> Node:
    return Node(
        id=SERVER_NODE,
        owner=owner,
        roles=Role.COMPUTE,
        status=NodeStatus.ACTIVE,
        key_epoch=1,
        updated_at=NOW,
        capacity=4,
        identity_key=b"\0" * 32,
        onion_key=b"\0" * 32,
        endpoint="",
        proof=b"",
    )


@asynccontextmanager
async def meeting(directory: pathlib.Path) -> AsyncIterator[Meeting]:
    data = sealed()
    async with onion_network.relays() as relays, world(directory, started=False) as here:
        here.chain.nodes |= {relay.id: relay for relay in relays} | {SERVER_NODE: server_node(SANDBOX.server.address)}
        await here.role.start()

        async def connected() -> bool:
            return here.role._link.connected

        await here.until(connected)
        digest = here.apply(data=data)
        await here.reconcile()
        await here.upload(data)
        await here.reconcile()

        node = max(here.chain.nodes)
        proxy = OnionProxy(directory=lambda: [onion_network.entry(relay) for relay in relays], hops=3, in_cluster=False)
        try:
            point = await proxy.rendezvous()
            descriptor = Descriptor(
                relay=point.relay, cookie=point.cookie, service_key=point.service_key, expires=point.expires, sender=ServerIndex(0)
            )
            reader_key = here.chain.nodes[node].onion_key
            descriptors = [seal_descriptor(descriptor, task=TASK, to=ForStore(node=node), reader_key=reader_key).document()]
            offer = sandboxes.offer(SANDBOX)
            spec = specification(node, data, digest)
            here.chain.tasks[TASK] = task_of(spec, node=node, statement=offer.statement.digest, descriptors=canonical(descriptors))
            yield Meeting(here=here, node=node, point=point, offer=offer, sealed=data)
        finally:
            await proxy.close()


async def receive(point: RendezvousPoint, offer: Offer, size: int) -> bytes:
    """What an agent does."""
    async with asyncio.timeout(30):
        session = await point.accept()
        label, stream = await session.accept_stream()
        assert label == "input"
        grant = parse_grant((await ask(stream, offer))["grant"])
        signers = [KEY.address]
        verify_grant(grant, statement=offer.statement, resource=RESOURCE, digest=grant.digest, signers=signers)
        opener, opened, left = dataset.Opener(open_grant(grant, SANDBOX.encryption)), bytearray(), size
        while left:
            piece = await stream.read(min(left, 65536))
            left -= len(piece)
            opened += opener.feed(piece)
        opened += opener.finish()
        await stream.write(json_frame({"ok": 1}, limit=4096))
        await stream.read(1)
        await session.close()
        return bytes(opened)


async def ask(stream: Stream, offer: Offer) -> dict[str, Any]:
    assert await read_json_frame(stream, limit=1 << 18) == HELLO
    shown = {key: value for key, value in offer.document().items() if key in ("statement", "signature", "serverSignature")}
    await stream.write(json_frame(shown, limit=1 << 18))
    return await read_json_frame(stream, limit=1 << 18)


async def outcome(found: Meeting) -> str:
    order = await found.here.role._deliveries._order(*await _chain_view(found), ServerIndex(0))
    return await found.here.role._link.deliver(order)


async def _chain_view(found: Meeting) -> tuple[ChainTask, TaskSpec]:
    task = await found.here.chain.task(TASK)
    return task, specification(found.node, found.sealed, dataset_digest(found))


def dataset_digest(found: Meeting) -> bytes:
    return next(iter(found.here.chain.resources.values())).digest


async def test_an_input_reaches_its_sandbox_and_opens_there(tmp_path: pathlib.Path) -> None:
    async with meeting(tmp_path) as found:
        receiving = asyncio.create_task(receive(found.point, found.offer, len(found.sealed)))
        [key] = [key for key in await found.here.role.resync() if key.kind == "deliveries"]
        assert await found.here.role.reconcile(key)
        assert await receiving == PLAINTEXT

        async def delivered() -> bool:
            return await outcome(found) == "delivered"

        await found.here.until(delivered)
        assert await found.here.role.reconcile(key) is None


async def test_a_sandbox_that_is_not_on_chain_gets_no_grant(tmp_path: pathlib.Path) -> None:
    async with meeting(tmp_path) as found:
        other = dataclasses.replace(found.offer.statement, nonce=b"\x09" * 32)
        impostor = Offer(
            statement=other, signature=sign_statement(other, SANDBOX.signing), server_signature=countersign(other, SANDBOX.server)
        )
        [key] = [key for key in await found.here.role.resync() if key.kind == "deliveries"]
        await found.here.role.reconcile(key)
        async with asyncio.timeout(30):
            session = await found.point.accept()
            _, stream = await session.accept_stream()
            with pytest.raises((VeilpodError, EOFError)):  # however the store ends it, no grant comes
                await ask(stream, impostor)
            await session.close()

        async def refused() -> bool:
            return await outcome(found) == "StatementRefused"

        await found.here.until(refused)


async def test_a_refusal_is_told_to_the_sandbox_and_to_the_owner(tmp_path: pathlib.Path) -> None:
    async with meeting(tmp_path) as found:
        [key] = [key for key in await found.here.role.resync() if key.kind == "deliveries"]
        await found.here.role.reconcile(key)
        found.change_policy(minTier="T1")
        async with asyncio.timeout(30):
            session = await found.point.accept()
            _, stream = await session.accept_stream()
            assert await ask(stream, found.offer) == {"refused": "TierTooLow"}
            await session.close()

        async def warned() -> bool:
            events = [body for (plural, _), body in found.here.cluster.objects.items() if plural == "events"]
            return any(body["reason"] == "TierTooLow" and body["type"] == "Warning" for body in events)

        await found.here.until(warned)


@pytest.mark.parametrize(
    ("policy", "code"),
    [
        ({"programs": ["x@sha256:" + "c" * 64]}, "ProgramRefused"),
        ({"requesters": ["0x" + "22" * 20]}, "RequesterRefused"),
        ({"minTier": "T1"}, "TierTooLow"),
        ({"programs": [IMAGE], "requesters": [REQUESTER], "minTier": "T0"}, None),
    ],
)
async def test_a_grant_obeys_the_policy_of_now(tmp_path: pathlib.Path, policy: dict[str, Any], code: str | None) -> None:
    async with meeting(tmp_path) as found:
        found.change_policy(**policy)
        verdict = await found.verdict()
        assert verdict == code if code else verdict.signer == KEY.address


async def test_no_grant_outlives_the_task_the_registration_or_the_data_set(tmp_path: pathlib.Path) -> None:
    async with meeting(tmp_path) as found:
        found.change(stopping=True)
        assert await found.verdict() == "TaskExpired"
        found.change(stopping=False, phase=TaskPhase.COMPLETED)
        assert await found.verdict() == "TaskExpired"
        found.change(phase=TaskPhase.RUNNING)
        found.here.chain.time = NOW + 721
        assert await found.verdict() == "TaskExpired"
        found.here.chain.time = NOW
        assert not isinstance(await found.verdict(), str)
        await found.here.chain.revoke_resource(RESOURCE)
        assert await found.verdict() == "ResourceRevoked"
        found.here.chain.resources[RESOURCE] = dataclasses.replace(found.here.chain.resources[RESOURCE], revoked=False)
        found.here.cluster.ask_deletion(DATASETS, "north")
        assert await found.verdict() == "NotHere"


async def test_a_statement_that_its_server_or_its_key_did_not_sign_is_refused(tmp_path: pathlib.Path) -> None:
    async with meeting(tmp_path) as found:
        forged = dataclasses.replace(found.offer, server_signature=countersign(found.offer.statement, sandboxes.keys(2).server))
        assert await found.verdict(forged) == "StatementRefused"
        forged = dataclasses.replace(found.offer, signature=sandboxes.keys(2).signing.sign(b"\x01" * 32))
        assert await found.verdict(forged) == "StatementRefused"


async def test_a_program_that_its_kernel_does_not_confine_reads_only_what_lets_it(tmp_path: pathlib.Path) -> None:
    async with meeting(tmp_path) as found:
        open_one = dataclasses.replace(found.offer.statement, program_confined=False)
        offer = Offer(
            statement=open_one, signature=sign_statement(open_one, SANDBOX.signing), server_signature=countersign(open_one, SANDBOX.server)
        )
        found.change(statements=(open_one.digest,))
        assert await found.verdict(offer) == "ProgramNotConfined"
        found.change_policy(programConfinement="WhenSupported")
        assert not isinstance(await found.verdict(offer), str)


async def test_a_second_statement_of_the_same_incarnation_is_never_granted(tmp_path: pathlib.Path) -> None:
    async with meeting(tmp_path) as found:
        assert not isinstance(await found.verdict(), str)
        assert not isinstance(await found.verdict(), str)
        other = dataclasses.replace(found.offer.statement, nonce=b"\x09" * 32)
        twin = Offer(statement=other, signature=sign_statement(other, SANDBOX.signing), server_signature=countersign(other, SANDBOX.server))
        found.change(statements=(other.digest,))
        assert await found.verdict(twin) == "GrantedToAnother"
        higher = dataclasses.replace(other, incarnation=2)
        reborn = Offer(
            statement=higher, signature=sign_statement(higher, SANDBOX.signing), server_signature=countersign(higher, SANDBOX.server)
        )
        found.change(statements=(higher.digest,))
        assert not isinstance(await found.verdict(reborn), str)


async def test_a_task_without_a_descriptor_for_this_store_is_refused_not_guessed(tmp_path: pathlib.Path) -> None:
    async with meeting(tmp_path) as found:
        found.change(descriptors=canonical([]))
        with pytest.raises(ProtocolViolation) as refused:
            await outcome(found)
        assert refused.value.reason == "NoDescriptor"


async def test_a_specification_that_is_not_the_one_on_chain_moves_nothing(tmp_path: pathlib.Path) -> None:
    async with meeting(tmp_path) as found:
        found.change(spec_hash=b"\0" * 32)
        assert await found.verdict() == "BadSpec"


async def test_a_finished_task_is_forgotten_by_the_store(tmp_path: pathlib.Path) -> None:
    async with meeting(tmp_path) as found:
        [key] = [key for key in await found.here.role.resync() if key.kind == "deliveries"]
        await found.here.role.reconcile(key)
        assert found.here.service.deliveries.active == 1
        found.change(phase=TaskPhase.CLOSED)
        assert await found.here.role.reconcile(key) is None

        async def idle() -> bool:
            return found.here.service.deliveries.active == 0

        await found.here.until(idle)
