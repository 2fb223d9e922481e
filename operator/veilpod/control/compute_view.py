"""What a computing server's operator observes of one assignment, and of one channel: each source at once, each may be unknown."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from veilpod.control.agent_links import AgentLinks
from veilpod.control.channel_desk import ChannelDesk, Line
from veilpod.control.context import Context
from veilpod.control.directory import relay_trouble
from veilpod.control.facts_store import FactsStore, Remembered
from veilpod.control.fences import Fences
from veilpod.control.recent import Recent
from veilpod.control.status import has_finalizer, is_deleting, seen, together, true_since
from veilpod.core.canonical import from_hex, keccak256
from veilpod.core.channel.machine import Party
from veilpod.core.channel.rules import Link
from veilpod.core.channel.state import opening_state
from veilpod.core.entities import NATIVE, ChainChannel, ChainTask, ChannelPhase, ChannelTerms, TaskPhase
from veilpod.core.ids import Address, ChannelId, PodUid, ServerIndex, TaskId
from veilpod.core.keys import parse_address
from veilpod.core.kinds import PODS, RUNTIME_CLASSES, SANDBOX_CLASSES, STATE_CHANNELS
from veilpod.core.sandbox_class import SandboxClass, check_fits, parse_sandbox_class
from veilpod.core.task import spec as specs
from veilpod.core.task.conditions import Type
from veilpod.core.task.facts import Facts
from veilpod.core.task.pods import read_pod
from veilpod.core.task.snapshot import ChannelSeen, ChannelSnapshot, PodSeen, Refusal, Seen, ServerSnapshot, Unknown
from veilpod.core.typed_data import Domain
from veilpod.errors import ChainUnavailable, InvalidInput, ProtocolViolation, Refused, Transient

ASSIGNMENT_LABEL = "veilpod.dev/assignment"
CHANNEL_LABEL = "veilpod.dev/channel"
# Without an object nothing of ours was sent: the object comes first.
NEVER_OPENED = ChainChannel(id=ChannelId(b""), phase=ChannelPhase.NONE, epoch=0, sequence=0, deadline=0, balance_a=0, balance_b=0)
CLASSES_SECONDS = 10.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A TaskAssignment's spec as values, with what only effects need."""

    name: str
    task: TaskId
    requester: Address
    index: ServerIndex
    spec: specs.TaskSpec | Refusal
    offered: SandboxClass | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChannelObject:
    """A StateChannel's spec as values."""

    name: str
    channel: ChannelId
    a: Address
    b: Address
    terms: ChannelTerms
    session: int
    deposit: int
    peer_deposit: int
    assignment: str
    peer: ServerIndex


class View:
    """Observes assignments and channels."""

    def __init__(self, context: Context, facts: FactsStore, links: AgentLinks) -> None:
        self._context, self._facts, self._links = context, facts, links
        self._owners: dict[TaskId, tuple[Address, ...]] = {}
        self._settling: dict[str, int] = {}
        self._addresses: dict[PodUid, str] = {}
        self.fences = Fences(context)
        self._classes: Recent[SandboxClass] = Recent(CLASSES_SECONDS)
        self.domain = Domain(chain_id=context.config.chain.chain_id, contract=context.config.chain.channels)

    # -- assignments

    async def assignment(self, body: Mapping[str, Any], facts: Facts) -> Assignment:
        """Read a TaskAssignment and say whether this server can honour it."""
        fields, name = body["spec"], body["metadata"]["name"]
        task, index = TaskId(from_hex(fields["taskId"], 32)), ServerIndex(fields["index"])
        spec: specs.TaskSpec | Refusal
        offered: SandboxClass | None = None
        try:
            spec = _spec(fields, index)
            wanted = spec
            if wanted.topology.type == "Mesh":
                raise Refused("TopologyUnsupported", "sandboxes of this server carry the topologies None and Star")
            specs.check_ports(wanted, [self._context.config.compute.relay_port])
            if wanted.payment.asset not in (NATIVE, *self._context.config.compute.assets):
                raise Refused("AssetNotAccepted", f"this server is not paid in {wanted.payment.asset}")
            offered = await self._classes.get(wanted.sandbox_class, lambda: self._class_of(wanted))
            check_fits(wanted, offered)
        except (InvalidInput, Refused, ProtocolViolation) as error:
            # What was countersigned is honoured, whatever became of the class since.
            if not facts.statement:
                spec = Refusal(reason=error.reason, message=str(error))
        return Assignment(name=name, task=task, requester=parse_address(fields["requester"]), index=index, spec=spec, offered=offered)

    async def observe(self, body: Mapping[str, Any], assignment: Assignment, desk: ChannelDesk) -> ServerSnapshot:
        """Look at everything that one assignment's decision needs."""
        facts = self._facts.begin(assignment.name, assignment.task, assignment.index)
        deny = assignment.offered.deny_host_access if assignment.offered else True
        task, now, pods, policies = await together(
            seen(self._context.reader.task(assignment.task)),
            seen(self._context.reader.now()),
            seen(self.pods(assignment.name, facts)),
            seen(self.fences.get(deny_host_access=deny)),
        )
        channels = await self._channels(assignment, desk)
        facts = self._facts.begin(assignment.name, assignment.task, assignment.index)  # events may have come while we were asking
        relays = None
        if not isinstance(assignment.spec, Refusal) and not isinstance(now, Unknown) and not facts.statement:
            asked = await seen(relay_trouble(self._context, assignment.spec, now))
            relays = None if isinstance(asked, Unknown) else asked
        return ServerSnapshot(
            task_id=assignment.task,
            index=assignment.index,
            deleting=is_deleting(body),
            finalizer=has_finalizer(body),
            spec=assignment.spec,
            task=task,
            chain_now=now,
            facts=facts,
            pods=pods,
            connected=self._connected(assignment.name, facts, pods),
            policies=policies,
            channels=channels,
            relays=relays,
        )

    async def pods(self, name: str, facts: Facts) -> tuple[PodSeen, ...]:
        """Every pod with the assignment's label."""
        namespace, now = self._context.config.sandbox_namespace, self._context.clock()
        bodies = await self._context.cluster.list_all(PODS, namespace=namespace, labels={ASSIGNMENT_LABEL: name})
        for body in bodies:
            if address := body.get("status", {}).get("podIP"):
                self._addresses[PodUid(body["metadata"]["uid"])] = address
        return tuple(read_pod(body, nonce=facts.nonce, now=now) for body in bodies)

    def address_of(self, uid: PodUid) -> str | None:
        """Where the API server said this very pod is. Kept in memory only, and nowhere else."""
        return self._addresses.get(uid)

    def forget_address(self, uid: PodUid) -> None:
        """The pod is gone."""
        self._addresses.pop(uid, None)

    async def owners(self, task: TaskId) -> tuple[Address, ...]:
        """The assigned servers' accounts, by index. They never change for a task."""
        if task not in self._owners:
            found = await self._context.reader.task(task)
            nodes = await together(*(self._context.reader.node(node) for node in found.compute))
            if not nodes:
                return ()
            self._owners[task] = tuple(node.owner for node in nodes)
        return self._owners[task]

    def _connected(self, name: str, facts: Facts, pods: Seen[tuple[PodSeen, ...]]) -> bool:
        if isinstance(pods, Unknown):
            return False
        return any(pod.intended and facts.record(pod.uid) and self._links.find(name, pod.uid) for pod in pods)

    async def _class_of(self, spec: specs.TaskSpec) -> SandboxClass:
        manifest = await self._context.cluster.get(SANDBOX_CLASSES, spec.sandbox_class)
        if manifest is None:
            raise Refused("ClassNotOffered", f"this cluster has no SandboxClass {spec.sandbox_class}")
        offered = parse_sandbox_class(manifest)
        if offered.runtime_class and await self._context.cluster.get(RUNTIME_CLASSES, offered.runtime_class) is None:
            raise Refused("RuntimeClassMissing", f"the SandboxClass {offered.name} names a RuntimeClass that is not there")
        return offered

    async def _channels(self, assignment: Assignment, desk: ChannelDesk) -> tuple[ChannelSeen, ...]:
        if isinstance(assignment.spec, Refusal) or not (peers := assignment.spec.peers(assignment.index)):
            return ()
        objects = {channel.peer: channel for channel in map(parse_channel, await self._objects(ASSIGNMENT_LABEL, assignment.name))}
        return tuple(await together(*(self._channel(peer, objects.get(peer), desk) for peer in peers)))

    async def _channel(self, peer: ServerIndex, channel: ChannelObject | None, desk: ChannelDesk) -> ChannelSeen:
        if channel is None:
            return ChannelSeen(peer=peer, chain=NEVER_OPENED, exists=False)
        return ChannelSeen(peer=peer, chain=await self._look_at(channel), exists=True, final=_final(desk, channel))

    async def _look_at(self, channel: ChannelObject) -> Seen[ChainChannel]:
        found: Seen[ChainChannel] = await seen(self._context.reader.channel(channel.channel))
        return found if isinstance(found, Unknown) else found.within(channel.session)

    async def _objects(self, label: str, value: str) -> list[dict[str, Any]]:
        return await self._context.cluster.list_all(STATE_CHANNELS, namespace=self._context.config.namespace, labels={label: value})

    async def free_session(self, channel: ChannelId, assignment: str) -> int:
        """The session of a channel that an assignment may open. Raises Transient while another assignment has it."""
        session = (await self._context.reader.channel(channel)).next_session
        for body in await self._objects(CHANNEL_LABEL, label_of(channel)):
            other = parse_channel(body)
            if other.assignment != assignment and other.session >= session and true_since(body, Type.SETTLED) is None:
                raise Transient("an earlier task of the same requester still has this channel", retry_after=5)
        return session

    # -- one channel

    async def observe_channel(self, body: Mapping[str, Any], channel: ChannelObject, desk: ChannelDesk) -> ChannelSnapshot:
        """Look at everything that one channel's decision needs."""
        known: Remembered | None = self._facts.find(channel.assignment)
        task: Seen[ChainTask] = Unknown("AssignmentUnknown")
        chain, now = await together(self._look_at(channel), seen(self._context.reader.now()))
        if known is not None:
            task = await seen(self._context.reader.task(known.task))
        facts = known.facts if known else Facts()
        newest = desk.newest(channel.channel, channel.session)
        over = not isinstance(task, Unknown) and task.phase in (TaskPhase.COMPLETED, TaskPhase.CLOSED)
        clock = 0 if isinstance(now, Unknown) else now
        since = self._settling.setdefault(channel.name, clock) if over and facts.destroyed and clock else clock
        return ChannelSnapshot(
            chain=chain,
            task=task,
            chain_now=now,
            is_a=channel.a == self._context.writer.address,
            deposit=channel.deposit,
            peer_deposit=channel.peer_deposit,
            wanted=known is not None and not facts.ending_since and not facts.destroyed,
            destroyed=bool(facts.destroyed),
            newest=newest.state.version if newest else 0,
            final=_final(desk, channel),
            settling_for=max(clock - since, 0),
            deleting=is_deleting(body),
            finalizer=has_finalizer(body),
        )

    async def line(self, name: str, peer: ServerIndex) -> Line:
        """A channel in use. Raises Transient until the meeting and the open channel are known, Refused for a peer that is none."""
        known = self._facts.find(name)
        if known is None or known.facts.agent.meeting is None:
            raise Refused("NoMeeting", "no sandbox of this assignment has met its peers")
        task = await self._context.reader.task(known.task)
        spec, owners = specs.decode_spec(task.spec), await self.owners(known.task)
        if peer not in spec.peers(known.index):
            raise Refused("NoSuchPeer", f"server {peer} is no peer of this sandbox")
        channel = next((found for found in map(parse_channel, await self._objects(ASSIGNMENT_LABEL, name)) if found.peer == peer), None)
        chain = Unknown("NotObserved") if channel is None else await self._look_at(channel)
        if channel is None or isinstance(chain, Unknown) or chain.phase in (ChannelPhase.NONE, ChannelPhase.OPENING):
            raise ChainUnavailable("the channel is not seen open yet")  # whoever published the key saw it: our view is behind
        if chain.phase is not ChannelPhase.OPEN:
            raise Refused("ChannelNotOpen", "the channel is not open (any more)")
        signers = known.facts.agent.meeting.signers
        ours, theirs = signers[known.index], signers[peer]
        is_a = channel.a == owners[known.index]
        deposit = spec.payment.channel_deposit
        return Line(
            assignment=name,
            peer=peer,
            link=Link(
                channel=channel.channel,
                domain=self.domain,
                task=known.task,
                servers=(min(known.index, peer), max(known.index, peer)),
                a=channel.a,
                b=channel.b,
                sandbox_a=ours if is_a else theirs,
                sandbox_b=theirs if is_a else ours,
                price=spec.payment.per_transfer_mib,
            ),
            terms=channel.terms,
            party=Party.A if is_a else Party.B,
            opening=opening_state(epoch=channel.session, deposit_a=deposit, deposit_b=deposit),
        )


def channel_name(channel: ChannelId, task: TaskId) -> str:
    """The deterministic name of a StateChannel, the same on both sides: one for each task that uses the channel."""
    return f"sc-{keccak256(channel + task).hex()[:32]}"


def label_of(channel: ChannelId) -> str:
    """A channel's id as far as a label's value can hold it."""
    return channel.hex()[:32]


def parse_channel(body: Mapping[str, Any]) -> ChannelObject:
    """Read a StateChannel."""
    fields = body["spec"]
    terms = ChannelTerms(
        asset=fields["asset"], lane=int(fields["lane"]), challenge_period=fields["challengePeriod"], penalty_bps=fields["penaltyBps"]
    )
    return ChannelObject(
        name=body["metadata"]["name"],
        channel=ChannelId(from_hex(fields["channelId"], 32)),
        a=fields["a"],
        b=fields["b"],
        terms=terms,
        session=int(fields["session"]),
        deposit=int(fields["deposit"]),
        peer_deposit=int(fields["peerDeposit"]),
        assignment=fields["assignment"],
        peer=ServerIndex(fields["peerIndex"]),
    )


def _spec(fields: Mapping[str, Any], index: ServerIndex) -> specs.TaskSpec:
    raw = fields["task"].encode()
    if specs.spec_hash(raw) != from_hex(fields["specHash"], 32):
        raise ProtocolViolation("BadSpec", "the specification is not the one on chain", party="requester")
    spec = specs.decode_spec(raw)
    if index >= len(spec.servers):
        raise ProtocolViolation("BadSpec", "the specification has no place for this server", party="requester")
    return spec


def _final(desk: ChannelDesk, channel: ChannelObject) -> bool:
    newest = desk.newest(channel.channel, channel.session)
    return newest is not None and newest.final and newest.complete
