"""The requester's role: follows ComputeTasks, requests and schedules them, publishes the key, watches the end. Paper steps 1-4, 9-11.

The rules are `core.task.decide.decide_task`; here is the loop around it: observe, decide, act, write the status once. The mailbox is a
registered node (role PROVIDER) that sandboxes reach through the onion network.
"""

import dataclasses
import functools
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from veilpod.control import performing, status
from veilpod.control.attempts import Attempts
from veilpod.control.context import Context
from veilpod.control.directory import relay_directory, service_endpoint
from veilpod.control.nodes import ensure_node, keep_alive
from veilpod.control.requester_view import Memory, View
from veilpod.control.role import Key
from veilpod.control.store_link import StoreLink, locate_pod
from veilpod.core.canonical import from_hex, to_hex
from veilpod.core.entities import ChainEvent, TaskPhase
from veilpod.core.entities import Role as NodeRole
from veilpod.core.ids import ChannelId, TaskId
from veilpod.core.kinds import COMPUTE_TASKS
from veilpod.core.store_messages import TaskTerms
from veilpod.core.task import plan as do
from veilpod.core.task import spec as specs
from veilpod.core.task.conditions import Type
from veilpod.core.task.decide import decide_task
from veilpod.core.task.plan import Effect, Plan
from veilpod.core.task.snapshot import TaskSnapshot, Unknown
from veilpod.errors import ChainRejected, Terminal, Transient, VeilpodError

ROUNDS = 12
_AWAITED = (Type.KEY_PUBLISHED, Type.RESULT_DELIVERED, Type.SANDBOX_DESTROYED, Type.SETTLED)


async def create(context: Context) -> "RequesterRole":
    """Make the role."""
    return RequesterRole(context)


class RequesterRole:
    """A control.role.Role."""

    name = "requester"
    kinds: Sequence[str] = (COMPUTE_TASKS.plural,)

    def __init__(self, context: Context) -> None:
        self._context = context
        self._mailbox = StoreLink(
            locate=locate_pod(context.cluster, namespace=context.config.namespace, service=context.config.mailbox_service),
            connect=context.connect,
            seal_key=context.node_keys.seal.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()),
            directory=lambda: relay_directory(context),
            on_event=self._on_mailbox,
            on_ready=self._on_mailbox_ready,
        )
        self._attempts = Attempts(context.config.state_dir / "requester")
        self._memory: dict[str, Memory] = {}
        self._names: dict[TaskId, str] = {}
        self._of_channel: dict[ChannelId, str] = {}
        self._view: View

    async def start(self) -> None:
        endpoint = await service_endpoint(self._context, self._context.config.mailbox_service)
        node = await ensure_node(self._context, role=NodeRole.PROVIDER, endpoint=endpoint)
        self._view = View(self._context, self._mailbox, node, self._attempts)
        self._context.tasks.start("requester.heartbeat", lambda: keep_alive(self._context, node))
        self._context.tasks.start("requester.mailbox", self._mailbox.run)

    async def stop(self) -> None:
        """Nothing to do: the background tasks end with their group."""

    # -- who wakes whom

    def interested(self, event: ChainEvent) -> Iterable[Key]:
        name = None
        if event.contract == "TaskScheduler":
            name = self._names.get(TaskId(event.subject))
        elif event.contract == "ChannelManager":
            name = self._of_channel.get(ChannelId(event.subject))
        return [_key(name)] if name else []

    async def resync(self) -> Iterable[Key]:
        bodies = await self._context.cluster.list_all(COMPUTE_TASKS, namespace=self._context.config.namespace)
        for body in bodies:
            self._names[specs.task_id(self._context.writer.address, body["metadata"]["uid"])] = body["metadata"]["name"]
        return [_key(body["metadata"]["name"]) for body in bodies]

    async def _on_mailbox(self, event: str, data: dict[str, Any]) -> None:
        if event == "mailbox" and (name := self._names.get(TaskId(from_hex(data.get("taskId", ""), 32)))):
            self._context.enqueue(_key(name))

    def _on_mailbox_ready(self) -> None:
        for name, memory in self._memory.items():
            memory.announced = False
            self._context.enqueue(_key(name))

    # -- observe, decide, act

    async def reconcile(self, key: Key) -> float | None:
        before: tuple[Effect, ...] | None = None
        for _ in range(ROUNDS):
            body = await self._context.cluster.get(COMPUTE_TASKS, key.name, namespace=self._context.config.namespace)
            if body is None:
                self._forget(key.name)
                return None
            snapshot, memory = await self._observe(key.name, body)
            plan = decide_task(snapshot, self._context.clock())
            if not plan.effects or plan.effects == before:
                return await self._write(body, snapshot, plan, at_once=_AWAITED)
            await self._act(body, snapshot, memory, plan)
            if any(isinstance(effect, do.RemoveFinalizer) for effect in plan.effects):
                self._attempts.forget(snapshot.id)
                return None
            before = plan.effects
        return 1.0

    async def _observe(self, name: str, body: dict[str, Any]) -> tuple[TaskSnapshot, Memory]:
        memory = self._memory.setdefault(name, Memory())
        snapshot = await self._view.observe(body, memory)
        self._names[snapshot.id] = name
        self._of_channel |= dict.fromkeys(memory.channels, name)
        return snapshot, memory

    async def _act(self, body: dict[str, Any], snapshot: TaskSnapshot, memory: Memory, plan: Plan) -> None:
        name = body["metadata"]["name"]
        for effect in plan.effects:
            act = functools.partial(self._perform, effect, body, snapshot, memory)
            try:
                await performing.perform(self._context, COMPUTE_TASKS, name, effect, act)
            except VeilpodError as error:
                await self._write(body, snapshot, status.told(plan, effect, error))  # what is known already is not kept from people
                await self._refused(body, effect, memory, error)
                raise

    async def _refused(self, body: dict[str, Any], effect: Effect, memory: Memory, error: VeilpodError) -> None:
        if isinstance(error, ChainRejected):
            memory.attempt += 1
            if memory.attempt % 4:
                # Most refusals are races that the next look resolves: somebody else refunded, a node filled up.
                raise Transient(f"{type(effect).__name__} was refused: {error}", retry_after=1) from error
        if isinstance(error, Terminal):
            await self._context.events.warning(body, reason=error.reason, note=str(error))

    async def _perform(self, effect: Effect, body: dict[str, Any], snapshot: TaskSnapshot, memory: Memory) -> None:
        context, writer, task = self._context, self._context.writer, snapshot.id
        match effect:
            case do.AddFinalizer():
                await status.set_finalizer(context, COMPUTE_TASKS, body, present=True)
            case do.RemoveFinalizer():
                await status.set_finalizer(context, COMPUTE_TASKS, body, present=False)
            case do.RequestTask(intent=intent):
                self._attempts.note(task, intent.terms.schedule_by)
                salt = specs.request_salt(body["metadata"]["uid"])
                await writer.request(salt=salt, spec=intent.spec, terms=intent.terms, budget=intent.budget, asset=intent.asset)
            case do.AssignServers(compute=compute):
                assert snapshot.spec
                await writer.assign(task, compute, snapshot.spec.stores)
            case do.AnnounceTask():
                await self._mailbox.announce_task(await self._terms(snapshot, memory))
                memory.announced = True
            case do.PublishKey(publication=publication):
                await writer.publish_key(task, **dataclasses.asdict(publication))
            case do.CancelTask():
                await writer.cancel(task)
            case do.Refund():
                await writer.refund(task)
            case do.ForgetTask():
                await self._mailbox.forget_task(task)
            case _:
                raise NotImplementedError(type(effect).__name__)

    async def _terms(self, snapshot: TaskSnapshot, memory: Memory) -> TaskTerms:
        assert snapshot.spec
        assert not isinstance(snapshot.task, Unknown)
        return TaskTerms(
            task=snapshot.id,
            owners=await self._view.owners(snapshot.task, memory),
            result_from=snapshot.spec.result.sender,
            max_size=snapshot.spec.result.max_size,
            domain=self._view.domain,
        )

    async def _write(
        self, body: dict[str, Any], snapshot: TaskSnapshot, plan: Plan, *, at_once: Collection[Type] | None = None
    ) -> float | None:
        task, box = snapshot.task, snapshot.mailbox
        fields: dict[str, Any] = {}
        if not isinstance(task, Unknown) and task.phase is not TaskPhase.NONE and snapshot.spec:
            fields["taskId"] = to_hex(snapshot.id)
            fields["taskKey"] = task.published_key
            if task.compute:
                servers = zip(snapshot.spec.servers, task.compute, strict=True)
                fields["servers"] = [{"index": server.index, "role": server.role.name, "node": node} for server, node in servers]
            if not isinstance(box, Unknown) and box.result:
                fields["result"] = {"hash": to_hex(box.result.result_hash), "size": box.result.size}
        return await status.write(self._context, COMPUTE_TASKS, body, plan, fields, at_once=at_once)

    def _forget(self, name: str) -> None:
        self._memory.pop(name, None)
        self._names = {task: known for task, known in self._names.items() if known != name}
        self._of_channel = {channel: known for channel, known in self._of_channel.items() if known != name}


def _key(name: str) -> Key:
    return Key(kind=COMPUTE_TASKS.plural, name=name)
