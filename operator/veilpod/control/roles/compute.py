"""The computing server's role: a node on chain, a TaskAssignment for each task assigned to it, its sandboxes and its channels.

The rules are `core.task.decide`; here is the loop around them: observe, decide, act, write the status once. Keys of the queue are
TaskAssignments, StateChannels, and tasks on chain (the pseudo-kind "tasks") that may have to become TaskAssignments. Paper steps 2 to 11.
"""

import contextlib
import functools
import logging
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from veilpod.chain.journal import Journal
from veilpod.control import classes, money, performing, status
from veilpod.control.agent_links import AgentLinks
from veilpod.control.channel_desk import ChannelDesk, Line
from veilpod.control.compute_channels import Channels
from veilpod.control.compute_effects import Effects
from veilpod.control.compute_sweep import TASKS, Sweep, task_key
from veilpod.control.compute_view import ASSIGNMENT_LABEL, Assignment, View
from veilpod.control.context import Context
from veilpod.control.facts_store import FactsStore
from veilpod.control.nodes import ensure_node, keep_alive
from veilpod.control.role import Key
from veilpod.control.watchtowers import Watchtowers
from veilpod.core.canonical import to_hex
from veilpod.core.channel.records import Signed
from veilpod.core.entities import ChainEvent
from veilpod.core.entities import Role as NodeRole
from veilpod.core.guard import Place
from veilpod.core.ids import ChannelId, ServerIndex, TaskId
from veilpod.core.kinds import PODS, STATE_CHANNELS, TASK_ASSIGNMENTS
from veilpod.core.task import plan as do
from veilpod.core.task.agent_events import fold
from veilpod.core.task.conditions import Type
from veilpod.core.task.decide import decide_assignment
from veilpod.core.task.facts import Facts, Failure
from veilpod.core.task.plan import Effect, Plan
from veilpod.core.task.snapshot import ServerSnapshot, Unknown
from veilpod.errors import ChainRejected, InsufficientFunds, PeerUnavailable, ProtocolViolation, Refused, Terminal, Transient
from veilpod.net import demonstration

log = logging.getLogger(__name__)
ROUNDS = 16
_AWAITED = (Type.SANDBOX_DESTROYED, Type.SETTLED)
_FORWARD = (do.CreateChannels, do.CreatePod, do.ConfigureAgent, do.CountersignStatement, do.SignSandboxKey, do.HandDescriptors)


async def create(context: Context) -> "ComputeRole":
    """Make the role."""
    return ComputeRole(context)


class ComputeRole:
    """A control.role.Role."""

    name = "compute"
    kinds: Sequence[str] = (TASK_ASSIGNMENTS.plural, STATE_CHANNELS.plural, TASKS)

    def __init__(self, context: Context) -> None:
        self._context = context
        state = context.config.state_dir
        self._facts = FactsStore(state / "assignments")
        self._journal = Journal.open(state / "channels")
        self._links = AgentLinks(context, on_event=self._on_event, on_change=self._wake)
        self._view = View(context, self._facts, self._links)
        self._towers = Watchtowers(
            context.config.compute.watchtowers, domain=self._view.domain, directory=state / "receipts", metrics=context.metrics
        )
        self._desk = ChannelDesk(
            journal=self._journal,
            key=context.key,
            find_line=self._view.line,
            call=self._call_agent,
            on_final=self._wake,
            on_agreed=self._guard,
        )
        self._effects = Effects(context, facts=self._facts, links=self._links, desk=self._desk, view=self._view)
        self._channels = Channels(context, view=self._view, desk=self._desk, journal=self._journal, towers=self._towers)
        self._of_task: dict[TaskId, str] = {}
        self._sweep: Sweep

    async def start(self) -> None:
        config = self._context.config.compute
        if not self._facts.names():  # whoever has sandboxes ends them, whatever is missing
            await classes.wait_for_fences(self._context)
        node = await ensure_node(self._context, role=NodeRole.COMPUTE, capacity=config.capacity)
        free, locked = await self._context.reader.stake_of(self._context.writer.address)
        if free + locked < config.stake:
            await self._context.writer.deposit_stake(config.stake - free - locked)
            log.info("stake.deposited")
        self._sweep = Sweep(self._context, self._facts, node)
        for name in self._facts.names():
            if known := self._facts.find(name):
                self._of_task[known.task] = name
        self._context.tasks.start("compute.heartbeat", lambda: keep_alive(self._context, node))
        self._context.tasks.start("compute.pods", self._watch_pods)
        self._context.tasks.start("compute.fences", lambda: self._view.fences.watch(self._living, self._wake))
        self._context.tasks.start("compute.classes", lambda: classes.watch(self._context))
        self._context.tasks.start("compute.channels", self._desk.repeat)
        for number, lane in enumerate(self._towers.lanes):
            self._context.tasks.start(f"compute.watchtower.{number}", lane.run)
        self._context.tasks.start("compute.money", lambda: money.watch(self._context, self._channels.exposures))

    async def stop(self) -> None:
        self._journal.close()

    # -- who wakes whom

    def interested(self, event: ChainEvent) -> Iterable[Key]:
        if event.contract == "ChannelManager":
            for channel, assignment in self._channels.using(ChannelId(event.subject)):
                yield Key(kind=STATE_CHANNELS.plural, name=channel)
                yield Key(kind=TASK_ASSIGNMENTS.plural, name=assignment)
        elif event.contract == "TaskScheduler":
            task = TaskId(event.subject)
            if name := self._of_task.get(task):
                yield Key(kind=TASK_ASSIGNMENTS.plural, name=name)
                for channel in self._channels.of_assignment(name):
                    yield Key(kind=STATE_CHANNELS.plural, name=channel)
            elif event.name == "Assigned":
                yield task_key(task)

    async def resync(self) -> Iterable[Key]:
        return await self._sweep.everything()

    def _wake(self, name: str) -> None:
        self._context.enqueue(Key(kind=TASK_ASSIGNMENTS.plural, name=name))

    def _guard(self, line: Line, signed: Signed) -> None:
        self._towers.offer(Place(a=line.link.a, b=line.link.b, terms=line.terms), signed)

    async def _watch_pods(self) -> None:
        namespace, labels = self._context.config.sandbox_namespace, {"veilpod.dev/component": "sandbox"}
        async for _, pod in self._context.cluster.watch(PODS, namespace=namespace, labels=labels):
            if name := (pod["metadata"].get("labels") or {}).get(ASSIGNMENT_LABEL):
                self._wake(name)

    # -- agents

    async def _on_event(self, name: str, event: str, data: dict[str, Any]) -> None:
        known = self._facts.find(name)
        if known is None:
            return
        try:
            if event == "receipt":
                await self._desk.on_receipt(name, ServerIndex(int(data["peer"])), data.get("receipt"))
            elif event == "channel":
                await self._desk.on_message(name, ServerIndex(int(data["peer"])), data.get("payload"))
            elif event == "circuit":
                demonstration.show({"assignment": name, **data})
            else:
                self._facts.change(name, agent=fold(known.facts.agent, event, data))
                log.info("agent.event", extra={"object": name, "name_of_event": event})
                self._wake(name)
        except (ProtocolViolation, Refused, KeyError, TypeError, ValueError) as error:
            # Whatever an agent says, it can only harm its own assignment: its silence ends it by the deadline.
            log.warning("agent.event_refused", extra={"object": name, "name_of_event": event, "error": type(error).__name__})

    async def _call_agent(self, name: str, command: str, args: dict[str, Any]) -> None:
        await self._links.any_of(name).call(command, **args)

    def _link(self, assignment: Assignment, facts: Facts) -> None:
        """Keep the control stream to the current sandbox, by the pod IP that the API server reports for its UID."""
        for record in facts.pods:
            address = self._view.address_of(record.uid)
            if facts.destroyed or facts.zeroised:
                self._view.forget_address(record.uid)
            elif record.incarnation == facts.incarnation and address:
                self._links.connect(assignment.name, uid=record.uid, host=address, pinned=facts.tls_key or None)

    # -- observe, decide, act

    async def reconcile(self, key: Key) -> float | None:
        if key.kind == TASKS:
            await self._sweep.adopt(key.name)
            return None
        if key.kind == STATE_CHANNELS.plural:
            return await self._channels.reconcile(key.name)
        return await self._reconcile_assignment(key.name)

    async def _reconcile_assignment(self, name: str) -> float | None:
        before: tuple[Effect, ...] | None = None
        for _ in range(ROUNDS):
            body = await self._context.cluster.get(TASK_ASSIGNMENTS, name, namespace=self._context.config.namespace)
            if body is None:
                self._links.drop(name)
                return None
            known = self._facts.find(name)
            assignment = await self._view.assignment(body, known.facts if known else Facts())
            self._of_task[assignment.task] = name
            snapshot = await self._view.observe(body, assignment, self._desk)
            self._link(assignment, snapshot.facts)
            plan = decide_assignment(snapshot, self._context.clock())
            if not plan.effects or plan.effects == before:
                return await self._write(body, snapshot, plan, at_once=_AWAITED)
            await self._act(body, assignment, snapshot, plan)
            if any(isinstance(effect, do.RecordFailure) for effect in plan.effects):
                with contextlib.suppress(Transient):  # people read why at once; what follows may take its time
                    await self._write(body, snapshot, plan)
            if any(isinstance(effect, do.RemoveFinalizer) for effect in plan.effects):
                return None
            before = plan.effects
        return 1.0

    async def _act(self, body: dict[str, Any], assignment: Assignment, snapshot: ServerSnapshot, plan: Plan) -> None:
        for effect in plan.effects:
            act = functools.partial(self._effects.perform, effect, body, assignment, snapshot)
            try:
                await performing.perform(self._context, TASK_ASSIGNMENTS, assignment.name, effect, act)
            except ChainRejected as error:
                await self._write(body, snapshot, plan)
                raise Transient(f"{type(effect).__name__} was refused: {error}", retry_after=2) from error
            except Terminal as error:
                if not isinstance(effect, _FORWARD):
                    raise
                # What must not be done ends the part, with the reason that people and the requester can read.
                log.warning("effect.refused", extra={"effect": type(effect).__name__, "reason": error.reason, "why": str(error)})
                await self._context.events.warning(body, reason=error.reason, note=str(error))
                self._fail(assignment, error.reason)
                return
            except (PeerUnavailable, InsufficientFunds) as error:
                await self._write(body, snapshot, status.told(plan, effect, error))
                raise

    def _fail(self, assignment: Assignment, code: str) -> None:
        facts = self._facts.begin(assignment.name, assignment.task, assignment.index)
        if facts.failure is None:
            self._facts.change(assignment.name, failure=Failure(stage="KeyPublished" if facts.statement else "SandboxReady", code=code))

    async def _write(self, body: dict[str, Any], s: ServerSnapshot, plan: Plan, *, at_once: Collection[Type] | None = None) -> float | None:
        facts = s.facts
        current = next((record for record in facts.pods if record.incarnation == facts.incarnation), None)
        result = facts.acknowledged_result
        if not isinstance(s.pods, Unknown):
            self._context.metrics.sandboxes.set(len(self._living()))
        return await status.write(
            self._context,
            TASK_ASSIGNMENTS,
            body,
            plan,
            {
                "incarnation": facts.incarnation,
                "podUID": current.uid if current else None,
                "keyFingerprint": to_hex(facts.statement) if facts.statement else None,
                "resultHash": to_hex(result.result_hash) if result else None,
            },
            at_once=at_once,
        )

    def _living(self) -> list[str]:
        """Assignments with a sandbox."""
        return [name for name in self._facts.names() if self._lives(name)]

    def _lives(self, name: str) -> bool:
        known = self._facts.find(name)
        return known is not None and bool(known.facts.pods) and not known.facts.destroyed
