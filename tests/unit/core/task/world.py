"""A small world for the decisions: a chain with the contracts' rules, three clusters with kubelets, agents, a mailbox, and a clock.

Effects are applied as the real shell would, observations may fail (Unknown), actors may crash between any two effects, and an adversary
may do what adversaries can. After every effect `World` checks the law on the truth, not on what anybody observed.
"""

import dataclasses
from collections.abc import Callable

from veilpod.core.entities import ChainChannel, ChainTask, ChannelPhase, TaskPhase, Terms
from veilpod.core.ids import Address, ChannelId, NodeId, PodUid, ResourceId, ServerIndex, TaskId
from veilpod.core.keys import checksum_address
from veilpod.core.task import conditions, plan
from veilpod.core.task import spec as specs
from veilpod.core.task.conditions import Condition, Type
from veilpod.core.task.decide import decide_assignment, decide_channel, decide_task
from veilpod.core.task.facts import Facts, Failure, Meeting, PodRecord, SignedResult, parse_facts
from veilpod.core.task.plan import Effect, Plan
from veilpod.core.task.snapshot import (
    ChannelSeen,
    ChannelSnapshot,
    Delivered,
    Intent,
    MailboxSeen,
    PodSeen,
    Policies,
    Publication,
    Refusal,
    ServerSnapshot,
    TaskSnapshot,
    Unknown,
)

TASK = TaskId(b"\x07" * 32)
KEY = checksum_address(b"\xab" * 20)
OVER = (TaskPhase.COMPLETED, TaskPhase.CLOSED)


def a_spec(**changes: object) -> specs.TaskSpec:
    """A hub and two sites in a Star; one input for each site."""
    inputs = tuple(
        specs.Input(
            dataset=f"data-{to}",
            resource=ResourceId(bytes([to]) * 32),
            node=NodeId(9),
            owner=Address("0x" + "0" * 40),
            digest=bytes(32),
            size=10,
            to=ServerIndex(to),
            path="train.csv",
        )
        for to in (1, 2)
    )
    spec = specs.TaskSpec(
        program=specs.Program(image="r/p@sha256:" + "0" * 64, command=("run",), env=(), cpu="1", memory=1 << 30),
        roles=(specs.TaskRole(name="hub", replicas=1, args=()), specs.TaskRole(name="site", replicas=2, args=("train",))),
        topology=specs.Topology(type="Star", hub="hub", ports=(9092,)),
        inputs=inputs,
        result=specs.ResultSpec(sender=ServerIndex(0), recipient="veil1", max_size=1 << 20, mailbox=NodeId(5)),
        payment=specs.Payment(per_server=10, per_transfer_mib=1, channel_deposit=100),
        deadlines=specs.Deadlines(schedule=120, inputs=300, compute=1800, total=3600),
        quorum=specs.Quorum(role="site", min=2),
        hops=3,
        relays="Any",
        sandbox_class="standard",
    )
    return dataclasses.replace(spec, **changes)  # type: ignore[arg-type]


class Broken(AssertionError):
    """The law was broken."""


class Rejected(Exception):
    """A contract refused."""


class Crash(Exception):
    """The actor died."""


@dataclasses.dataclass
class Pod:
    uid: PodUid
    name: str
    incarnation: int
    nonce: str
    ends: int
    running: bool = True  # the truth about its containers
    deleting: bool = False
    terminated: bool = False
    kubelet_done: bool = False
    finalizer: bool = True
    restarted: bool = False
    ended: bool = False
    refused: bool = False
    unproved: bool = False
    images_told: bool = False
    configured: bool = False
    offered: bool = False
    accepted: bool = False
    handed: bool = False
    released: bool = False
    mute: bool = False
    stuck: str = ""

    def seen(self, facts: Facts) -> PodSeen:
        return PodSeen(
            uid=self.uid,
            name=self.name,
            incarnation=self.incarnation,
            intended=self.nonce == facts.nonce,
            deleting=self.deleting,
            terminated=self.terminated,
            kubelet_done=self.kubelet_done,
            finalizer=self.finalizer,
            images_match=True if self.images_told else None,
            restarted=self.restarted,
            ended=self.ended,
            refused=self.refused,
            unproved=self.unproved,
            has_address=True,
            stuck=self.stuck,
        )


@dataclasses.dataclass
class Server:
    index: ServerIndex
    facts: Facts = dataclasses.field(default_factory=Facts)
    pods: list[Pod] = dataclasses.field(default_factory=list)  # objects in the API server
    containers: list[Pod] = dataclasses.field(default_factory=list)  # the truth on the nodes
    late_posts: list[Pod] = dataclasses.field(default_factory=list)  # requests whose answer was lost
    finalizer: bool = False
    deleting: bool = False
    gone: bool = False
    assigned: bool = False
    channels: bool = False
    policies: bytes = b"fences"
    conditions: tuple[Condition, ...] = ()
    counter: int = 0
    signed: set[tuple[bytes, ...]] = dataclasses.field(default_factory=set)

    def keep(self, **changes: object) -> None:
        """Always through the disk format: what it loses, the world loses."""
        self.facts = parse_facts(dataclasses.replace(self.facts, **changes).to_json())  # type: ignore[arg-type]

    def living(self) -> list[Pod]:
        return [pod for pod in self.containers if pod.running]

    def enforce_deadlines(self, clock: int) -> None:
        """The kubelet kills what outlives its active deadline, operator or not."""
        for pod in self.containers:
            if clock > pod.ends:
                pod.running, pod.ended = False, True

    def current(self) -> Pod | None:
        return next((pod for pod in self.pods if pod.nonce == self.facts.nonce and pod.running), None)


@dataclasses.dataclass
class Channel:
    link: tuple[ServerIndex, ServerIndex]
    phase: ChannelPhase = ChannelPhase.NONE
    epoch: int = 0
    sequence: int = 0
    deadline: int = 0
    final: bool = False
    newest: int = 1
    settling_since: dict[int, int] = dataclasses.field(default_factory=dict)
    objects: dict[int, bool] = dataclasses.field(default_factory=dict)  # server -> has finalizer
    gone: set[int] = dataclasses.field(default_factory=set)

    def view(self) -> ChainChannel:
        return ChainChannel(
            id=ChannelId(bytes(32)),
            phase=self.phase,
            epoch=self.epoch,
            sequence=self.sequence,
            deadline=self.deadline,
            balance_a=100,
            balance_b=100,
        )


class World:
    """Everything there is. `blind` decides which observation fails, `crash` whether the actor dies before an effect."""

    def __init__(self, spec: specs.TaskSpec | None = None) -> None:
        self.spec = spec or a_spec()
        self.asset = self.spec.payment.asset
        self.clock = 1_000_000
        self.servers = [Server(index=server.index) for server in self.spec.servers]
        self.channels = [Channel(link=link) for link in self.spec.links]
        self.phase = TaskPhase.NONE
        self.terms: Terms | None = None
        self.stopping = False
        self.reported = 0
        self.statements: tuple[bytes, ...] = ()
        self.published = False
        self.result: bytes | None = None
        self.finalizer = self.deleting = self.gone = self.announced = False
        self.attempted_until: int | None = None
        self.failure: Failure | None = None
        self.conditions: tuple[Condition, ...] = ()
        self.offers: dict[int, bytes] = {}
        self.acceptances: set[int] = set()
        self.notes: set[tuple[ServerIndex, str]] = set()
        self.failures: list[tuple[ServerIndex, str]] = []
        self.delivered = False
        self.peers_sign = True
        self.relays: Refusal | None = None  # what both kinds of operators see of the directory
        self.trouble = ""  # what keeps every agent's circuits from being made
        self.told = 0  # how often an agent was told the directory
        self.blind: Callable[[str], bool] = lambda what: False
        self.crash: Callable[[], bool] = lambda: False
        self.effects = 0

    # -- acting -----------------------------------------------------------------------------------------------------------------

    def act_requester(self) -> Plan | None:
        if self.gone:
            return None
        plan_ = decide_task(self.requester_sees(), self.clock)
        self._check_claims(plan_, self.conditions)
        if self._execute(plan_, self.apply_requester):
            self.conditions = conditions.merge(self.conditions, plan_.claims, now=self.clock, generation=1)
            self.failure = self.failure or plan_.failure
        return plan_

    def act_server(self, server: Server) -> Plan | None:
        if not server.assigned and self.phase in (TaskPhase.ASSIGNED, TaskPhase.RUNNING):
            server.assigned = True  # the resync made its TaskAssignment
        if not server.assigned or server.gone:
            return None
        plan_ = decide_assignment(self.server_sees(server), self.clock)
        self._check_claims(plan_, server.conditions)
        if self._execute(plan_, lambda effect: self.apply_server(server, effect)):
            before = server.conditions
            server.conditions = conditions.merge(before, plan_.claims, now=self.clock, generation=1)
        return plan_

    def act_channel(self, channel: Channel, server: Server) -> Plan | None:
        if server.index not in channel.objects or server.index in channel.gone:
            return None
        plan_ = decide_channel(self.channel_sees(channel, server), self.clock)
        self._execute(plan_, lambda effect: self.apply_channel(channel, server, effect))
        return plan_

    def _execute(self, plan_: Plan, apply: Callable[[Effect], None]) -> bool:
        for effect in plan_.effects:
            if self.crash():
                return False
            try:
                apply(effect)
            except Rejected:
                return False
            except Crash:
                return False
            self.effects += 1
        return not self.crash()

    # -- seeing -----------------------------------------------------------------------------------------------------------------

    def chain_task(self) -> ChainTask:
        nodes = (
            tuple(NodeId(10 + server.index) for server in self.servers) if self.phase not in (TaskPhase.NONE, TaskPhase.REQUESTED) else ()
        )
        if not self.servers_engaged:
            nodes = ()
        return ChainTask(
            id=TASK,
            phase=self.phase,
            requester=KEY,
            stopping=self.stopping,
            reported=self.reported,
            escrow=100,
            terms=self.terms or specs.make_terms(self.spec, now=self.clock, stake=0),
            spec_hash=bytes(32),
            key=KEY if self.phase is TaskPhase.RUNNING else None,
            result_hash=self.result,
            compute=nodes,
            stores=(),
            spec=b"",
            statements=self.statements,
            descriptors=b"",
            published_key=KEY if self.published else None,
            asset=self.asset,
        )

    servers_engaged = False

    def requester_sees(self) -> TaskSnapshot:
        everybody = len(self.acceptances) == len(self.servers)
        publication = Publication(key=KEY, statements=tuple(self.offers[i] for i in sorted(self.offers)), signatures=b"", descriptors=b"")
        mailbox = MailboxSeen(
            announced=self.announced,
            offers=frozenset(ServerIndex(i) for i in self.offers),
            publication=publication if everybody else None,
            notes=frozenset(self.notes),
            failures=tuple(self.failures),
            result=Delivered(result_hash=b"r" * 32, size=3) if self.delivered else None,
        )
        unseen = Unknown("ChainUnavailable")
        return TaskSnapshot(
            id=TASK,
            deleting=self.deleting,
            finalizer=self.finalizer,
            intent=Unknown()
            if self.blind("intent")
            else Intent(spec=b"{}", terms=specs.make_terms(self.spec, now=self.clock, stake=0), budget=100),
            attempted_until=self.attempted_until,
            failure=self.failure,
            task=unseen if self.blind("task") else self.chain_task(),
            chain_now=unseen if self.blind("clock") else self.clock,
            spec=self.spec,
            candidates=Unknown() if self.blind("candidates") else tuple(NodeId(10 + s.index) for s in self.servers),
            mailbox=Unknown("MailboxUnavailable") if self.blind("mailbox") else mailbox if self.announced else MailboxSeen(),
            channels=unseen if self.blind("channels") else tuple(channel.view() for channel in self.channels),
            relays=self.relays,
        )

    def server_sees(self, server: Server) -> ServerSnapshot:
        facts = server.facts
        pod = server.current()
        return ServerSnapshot(
            task_id=TASK,
            index=server.index,
            deleting=server.deleting,
            finalizer=server.finalizer,
            spec=self.spec,
            task=Unknown("ChainUnavailable") if self.blind("task") else self.chain_task(),
            chain_now=Unknown("ChainUnavailable") if self.blind("clock") else self.clock,
            facts=facts,
            pods=Unknown("ClusterUnavailable") if self.blind("pods") else tuple(pod.seen(facts) for pod in server.pods),
            connected=pod is not None and facts.record(pod.uid) is not None and not pod.mute and not self.blind("link"),
            policies=Unknown("ClusterUnavailable") if self.blind("policies") else Policies(digest=server.policies),
            channels=tuple(
                ChannelSeen(
                    peer=ServerIndex(sum(channel.link) - server.index),
                    chain=Unknown("ChainUnavailable") if self.blind("channels") else channel.view(),
                    exists=server.index in channel.objects,
                    final=channel.final,
                )
                for channel in self.channels
                if server.index in channel.link
            ),
            relays=None if facts.statement else self.relays,
        )

    def channel_sees(self, channel: Channel, server: Server) -> ChannelSnapshot:
        facts = server.facts
        if facts.destroyed and self.phase in OVER:
            channel.settling_since.setdefault(server.index, self.clock)
        return ChannelSnapshot(
            chain=Unknown("ChainUnavailable") if self.blind("channels") else channel.view(),
            task=Unknown("ChainUnavailable") if self.blind("task") else self.chain_task(),
            chain_now=Unknown("ChainUnavailable") if self.blind("clock") else self.clock,
            is_a=channel.link[0] == server.index,
            deposit=100,
            peer_deposit=100,
            wanted=not facts.ending_since and not server.deleting,
            destroyed=bool(facts.destroyed),
            newest=(channel.epoch << 40) | channel.newest,
            final=channel.final,
            settling_for=self.clock - channel.settling_since.get(server.index, self.clock),
            deleting=server.gone,
            finalizer=channel.objects[server.index],
        )

    # -- effects ----------------------------------------------------------------------------------------------------------------

    def apply_requester(self, effect: Effect) -> None:
        match effect:
            case plan.AddFinalizer():
                self.finalizer = True
            case plan.RemoveFinalizer():
                self._law(self.phase in (TaskPhase.NONE, *OVER), "the requester's object went while its money was locked")
                self.gone = True
            case plan.RequestTask(intent=intent):
                self._demand(self.phase is TaskPhase.NONE and intent.terms.schedule_by > self.clock)
                self.attempted_until = intent.terms.schedule_by
                self.phase, self.terms = TaskPhase.REQUESTED, intent.terms
            case plan.AssignServers():
                self._demand(self.phase is TaskPhase.REQUESTED and self.clock <= self._terms.schedule_by)
                self.phase, self.servers_engaged = TaskPhase.ASSIGNED, True
            case plan.AnnounceTask():
                self.announced = True
            case plan.PublishKey(publication=publication):
                self._publish(publication)
            case plan.CancelTask():
                self._cancel()
            case plan.Refund():
                self.refund()
            case plan.ForgetTask():
                self.announced = False
            case _:
                raise AssertionError(effect)

    def _publish(self, publication: Publication) -> None:
        self._law(all(c.phase is ChannelPhase.OPEN for c in self.channels), "a key was published before every channel was open")
        self._law(len(publication.statements) == len(self.servers), "a key without every server's statement")
        self._demand(self.phase is TaskPhase.ASSIGNED and not self.stopping and not self.reported and self.clock <= self._terms.key_by)
        self.phase, self.published, self.statements = TaskPhase.RUNNING, True, publication.statements

    def _cancel(self) -> None:
        self._demand(self.phase in (TaskPhase.REQUESTED, TaskPhase.ASSIGNED, TaskPhase.RUNNING) and not self.stopping)
        if self.phase is TaskPhase.REQUESTED:
            self.phase = TaskPhase.CLOSED
        self.stopping = True

    def refund(self) -> None:
        all_in = self.reported == (1 << len(self.servers)) - 1
        after = {
            TaskPhase.REQUESTED: self.clock > self._terms.schedule_by,
            TaskPhase.ASSIGNED: all_in or self.clock > self._terms.key_by,
            TaskPhase.RUNNING: all_in or self.clock > self._terms.report_by,
        }
        self._demand(after.get(self.phase, False))
        self.phase = TaskPhase.CLOSED

    def apply_server(self, server: Server, effect: Effect) -> None:
        facts = server.facts
        forward = (
            plan.BeginIncarnation,
            plan.CreatePod,
            plan.ConfigureAgent,
            plan.CountersignStatement,
            plan.SignSandboxKey,
            plan.HandDescriptors,
        )
        self._law(not (facts.ending_since and isinstance(effect, forward)), f"{effect} after the end had begun")
        pod = server.current()
        match effect:
            case plan.AddFinalizer():
                server.finalizer = True
            case plan.RemoveFinalizer():
                self._law(not server.living(), "an assignment went while its sandbox lived")
                server.gone = True
            case plan.RecordFailure(failure=failure):
                server.keep(failure=facts.failure or failure)
            case plan.RecordEnding():
                server.keep(ending_since=self.clock)
            case plan.CreateChannels():
                for channel in self.channels:
                    if server.index in channel.link:
                        channel.objects.setdefault(server.index, False)
            case plan.BeginIncarnation(incarnation=number):
                self._law(not facts.statement, "another incarnation after a statement was countersigned")
                server.keep(incarnation=number, nonce=f"n{server.index}.{number}", agent=Facts().agent)
            case plan.CreatePod():
                self._create_pod(server)
            case plan.ConfigureAgent():
                assert pod
                pod.configured = True
                self.told += 1
            case plan.CountersignStatement():
                assert pod
                statement = pod.uid.encode().ljust(32, b"\0")
                self._law(facts.statement in (b"", statement), "two statements countersigned")
                server.keep(statement=statement, policies=server.policies)
                if self.crash():
                    raise Crash
                pod.offered = True
                server.keep(offered=True)
            case plan.SignSandboxKey():
                self._sign_key(server)
            case plan.HandDescriptors():
                assert pod
                self._law(self.published, "descriptors before publication")
                pod.handed = True
                server.keep(handed=True)
            case plan.RequestFinals():
                for channel in self.channels:
                    if server.index in channel.link and self.peers_sign and channel.phase is ChannelPhase.OPEN:
                        channel.final = True
            case plan.PersistFinalStates():
                server.keep(finals=True)
            case plan.Release():
                self._law(facts.finals, "released before the final states were on disk")
                assert pod
                pod.released = True
                server.keep(released=True)
            case plan.Zeroise():
                self._law(facts.finals, "zeroised before the final states were on disk")
                assert pod
                server.keep(zeroised="Acknowledged")
            case plan.RecordUnreachable():
                self._law(facts.finals, "given up before the final states were on disk")
                server.keep(zeroised="Unreachable")
            case plan.DeletePod(uid=uid):
                self._law(
                    not facts.statement or (facts.finals and bool(facts.zeroised)) or not self._is_current(server, uid), "deleted too early"
                )
                for item in server.pods:
                    if item.uid == uid:
                        item.deleting = True
            case plan.RecordEvidence(uid=uid, unproved=unproved):
                server.keep(pods=facts.with_evidence(uid, unproved=unproved).pods)
            case plan.ReleasePodFinalizer(uid=uid):
                self._release_finalizer(server, uid)
            case plan.RecordDestroyed(reason=reason):
                self._law(not server.living() and not server.late_posts, "destroyed was recorded while a sandbox lived")
                server.keep(destroyed=reason)
            case plan.ReportDestroyed():
                self._told_chain(server)
                self._demand(self.phase in (TaskPhase.ASSIGNED, TaskPhase.RUNNING) and not self.reported & (1 << server.index))
                self.reported |= 1 << server.index
            case plan.CompleteTask(result=result):
                self._told_chain(server)
                all_in = self.reported | (1 << server.index) == (1 << len(self.servers)) - 1
                self._demand(self.phase is TaskPhase.RUNNING and self.clock <= self._terms.report_by)
                self._demand(all_in or self.clock > self._terms.complete_by)
                self.reported |= 1 << server.index
                self.phase, self.result = TaskPhase.COMPLETED, result.result_hash
            case plan.Refund():
                self.refund()
            case _:
                raise AssertionError(effect)

    def _create_pod(self, server: Server) -> None:
        facts = server.facts
        server.keep(intended_at=self.clock)
        name = f"sb-{server.index}-{facts.incarnation}"
        existing = next((pod for pod in server.pods if pod.name == name), None)
        if existing is None:
            self._law(not server.living(), "a second sandbox")
            server.counter += 1
            ends = self._terms.report_by + 60
            pod = Pod(
                uid=PodUid(f"uid-{server.index}-{server.counter}"), name=name, incarnation=facts.incarnation, nonce=facts.nonce, ends=ends
            )
            if self.blind("late"):
                server.late_posts = [pod]
                raise Crash
            server.pods.append(pod)
            server.containers.append(pod)
            existing = pod
        server.late_posts = []  # the name is taken now: a late POST of the same name conflicts
        if self.crash():
            raise Crash
        if existing.nonce == facts.nonce and facts.record(existing.uid) is None:
            record = PodRecord(uid=existing.uid, incarnation=existing.incarnation, ends=existing.ends + 60)
            server.keep(pods=(*facts.pods, record), intended_at=0)
        server.keep(intended_at=0)

    def _sign_key(self, server: Server) -> None:
        facts = server.facts
        assert facts.agent.meeting
        mine = [channel for channel in self.channels if server.index in channel.link]
        first = not facts.accepted_key
        self._law(not first or all(c.phase is ChannelPhase.OPEN for c in mine), "accepted before the channels were open")
        server.signed.add(facts.agent.meeting.statements)
        self._law(len(server.signed) == 1, "two sandbox keys signed for one task")
        server.keep(accepted_key=b"k" * 32)
        if self.crash():
            raise Crash
        pod = server.current()
        if pod:
            pod.accepted = True

    def _release_finalizer(self, server: Server, uid: PodUid) -> None:
        pod = next((pod for pod in server.pods if pod.uid == uid), None)
        if pod is None:
            return
        record = server.facts.record(uid)
        ours = pod.nonce.startswith("n")
        self._law(not pod.running and pod.terminated and pod.kubelet_done, "the finalizer went before the containers were dead")
        self._law(not ours or record is None or record.evidence, "the finalizer went before the evidence was on record")
        pod.finalizer = False
        server.pods.remove(pod)

    def _told_chain(self, server: Server) -> None:
        self._law(bool(server.facts.destroyed) and not server.living(), "the chain was told of a destruction that had not happened")

    def apply_channel(self, channel: Channel, server: Server, effect: Effect) -> None:
        settling = (plan.CloseChannel, plan.Challenge, plan.Finalize, plan.CancelChannel)
        if isinstance(effect, settling):
            self._law(not server.living() and bool(server.facts.destroyed), f"{effect} while a sandbox lived")
            self._law(self.phase in OVER, f"{effect} before the key was revoked")
        match effect:
            case plan.AddFinalizer():
                channel.objects[server.index] = True
            case plan.RemoveFinalizer():
                self._law(channel.phase is not ChannelPhase.OPEN and channel.phase is not ChannelPhase.DISPUTED, "a channel was forgotten")
                channel.gone.add(server.index)
            case plan.OpenChannel():
                self._demand(channel.phase is ChannelPhase.NONE)
                channel.phase, channel.epoch = ChannelPhase.OPENING, 1
            case plan.JoinChannel(epoch=epoch):
                self._demand(channel.phase is ChannelPhase.OPENING and epoch == channel.epoch)
                channel.phase = ChannelPhase.OPEN
            case plan.CancelChannel():
                self._demand(channel.phase is ChannelPhase.OPENING)
                channel.phase = ChannelPhase.CLOSED
            case plan.CloseChannel():
                self._demand(channel.phase in (ChannelPhase.OPEN, ChannelPhase.DISPUTED) and channel.final)
                channel.phase = ChannelPhase.CLOSED
            case plan.Challenge():
                self._demand(channel.phase is ChannelPhase.OPEN)
                channel.phase, channel.sequence, channel.deadline = ChannelPhase.DISPUTED, channel.newest, self.clock + 3600
            case plan.Respond():
                self._demand(channel.phase is ChannelPhase.DISPUTED and self.clock <= channel.deadline)
                channel.sequence = channel.newest
            case plan.Finalize():
                self._demand(channel.phase is ChannelPhase.DISPUTED and self.clock > channel.deadline)
                channel.phase = ChannelPhase.CLOSED
            case _:
                raise AssertionError(effect)

    # -- nature -----------------------------------------------------------------------------------------------------------------

    def kubelet(self, server: Server) -> None:
        """Every node does its next piece of work."""
        for pod in server.containers:
            pod.images_told = True
        for pod in list(server.pods):
            if pod.deleting and pod.terminated:
                pod.kubelet_done = True
            elif pod.deleting:
                pod.running, pod.terminated = False, True
            elif pod.released:
                pod.ended = True

    def agent(self, server: Server) -> None:
        """The agent in the current pod takes its next steps, and its operator folds the events."""
        pod, facts = server.current(), server.facts
        if pod is None or facts.record(pod.uid) is None or pod.mute or pod.restarted or pod.ended or facts.agent.failed:
            return
        agent, index = facts.agent, server.index
        changes: dict[str, object] = {"trouble": self.trouble}
        if pod.configured and self.trouble:
            server.keep(agent=dataclasses.replace(agent, isolated=True, trouble=self.trouble))
            return
        if pod.configured:
            changes |= {"isolated": True, "ready": True}
        if pod.offered and self.announced:
            self.offers.setdefault(index, pod.uid.encode().ljust(32, b"\0"))
        if pod.offered and len(self.offers) == len(self.servers):
            changes["meeting"] = Meeting(key=KEY, statements=tuple(self.offers[i] for i in sorted(self.offers)))
        if pod.accepted:
            self.acceptances.add(index)
            changes["accepted"] = True
        if pod.handed:
            changes |= {"received": True, "verified": True, "started": True}
            self.notes |= {(index, event) for event in ("InputsDelivered", "InputsVerified")}
        if agent.started:
            changes |= {"exited": 0, "flushed": True}
            self.notes |= {(index, "Computed"), (index, "FinalStateSigned")}
        if agent.exited == 0 and index == self.spec.result.sender:
            changes |= {"result": SignedResult(result_hash=b"r" * 32, size=3, signature=bytes(65)), "delivered": True}
            self.delivered = True
        server.keep(agent=dataclasses.replace(agent, **changes))  # type: ignore[arg-type]

    def fail_agent(self, server: Server, code: str) -> None:
        server.keep(agent=dataclasses.replace(server.facts.agent, failed=server.facts.agent.failed or code))
        self.failures.append((server.index, code))

    def land_late_posts(self, server: Server) -> None:
        """A POST whose answer was lost is carried out after all, within the API server's own time limit."""
        for pod in server.late_posts:
            if all(other.name != pod.name for other in server.pods) and self.clock <= server.facts.intended_at + 60:
                server.pods.append(pod)
                server.containers.append(pod)
        server.late_posts = []

    def drop_late_posts(self, server: Server) -> None:
        """The API server's time limit is over."""
        if self.clock > server.facts.intended_at + 60:
            server.late_posts = []

    # -- running ----------------------------------------------------------------------------------------------------------------

    def turn(self, seconds: int = 5) -> None:
        """Everybody acts once, nature too, and time passes."""
        self.act_requester()
        for server in self.servers:
            self.act_server(server)
            for channel in self.channels:
                if server.index in channel.link:
                    self.act_channel(channel, server)
            self.kubelet(server)
            self.agent(server)
            self.drop_late_posts(server)
        self.pass_time(seconds)

    def pass_time(self, seconds: int) -> None:
        self.clock += seconds
        for server in self.servers:
            server.enforce_deadlines(self.clock)

    @property
    def settled(self) -> bool:
        """Whether everybody's conditions say Settled and nothing is locked any more."""
        everybody = [
            *([] if self.gone else [self.conditions]),
            *(server.conditions for server in self.servers if server.assigned and not server.gone),
        ]
        closed = all(channel.phase in (ChannelPhase.NONE, ChannelPhase.CLOSED) for channel in self.channels)
        return closed and self.phase in OVER and all(conditions.is_true(items, Type.SETTLED) for items in everybody)

    # -- the law ----------------------------------------------------------------------------------------------------------------

    def _law(self, holds: bool, broken: str) -> None:
        if not holds:
            raise Broken(broken)

    def _demand(self, allowed: bool) -> None:
        if not allowed:
            raise Rejected

    def _is_current(self, server: Server, uid: PodUid) -> bool:
        return any(pod.uid == uid and pod.nonce == server.facts.nonce for pod in server.pods)

    def _check_claims(self, plan_: Plan, before: tuple[Condition, ...]) -> None:
        after = conditions.merge(before, plan_.claims, now=self.clock, generation=1)
        true = {condition.type for condition in after if condition.status is conditions.Status.TRUE}
        self._law(Type.SETTLED not in true or Type.SANDBOX_DESTROYED in true, "Settled without SandboxDestroyed")
        self._law(Type.KEY_PUBLISHED not in true or Type.NETWORK_ISOLATED in true, "KeyPublished without NetworkIsolated")
        self._law({c.type for c in before} <= {c.type for c in after}, "a condition vanished")
        for old in before:
            sticky = old.status is conditions.Status.TRUE and old.type in conditions.STICKY
            self._law(not sticky or old.type in true, f"{old.type} reverted")

    @property
    def _terms(self) -> Terms:
        assert self.terms
        return self.terms
