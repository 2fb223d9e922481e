"""Deliveries of a storage server: from a published key to a granted, delivered input (paper step 5).

Two doors, one rule (`dataset_spec.judge`): a delivery starts only for an input that the policy admits, and a grant is signed only for
the sandbox that the store met, judged again with what the chain says at that moment. The data key is opened here, used and dropped; it
reaches neither the store nor a disk.
"""

import asyncio
import logging

from veilpod.control.context import Context
from veilpod.control.storage_datasets import Datasets
from veilpod.control.store_link import StoreLink
from veilpod.core import dataset
from veilpod.core.canonical import to_hex
from veilpod.core.dataset_spec import judge
from veilpod.core.entities import ChainTask, TaskPhase
from veilpod.core.grant import Grant, make_grant
from veilpod.core.ids import NodeId, ServerIndex, TaskId
from veilpod.core.keys import custody_key
from veilpod.core.meeting import Descriptor, ForStore, open_descriptor, parse_descriptors
from veilpod.core.statement import Statement, parse_statement, verify_countersignature, verify_statement
from veilpod.core.store_messages import DeliveryObject, DeliveryOrder, GrantWanted, SandboxRef
from veilpod.core.task.spec import Input, TaskSpec, decode_spec, spec_hash
from veilpod.errors import ProtocolViolation, Refused, Terminal, Transient

_LOOK_AGAIN_SECONDS = 30.0
_ORDER_SECONDS = 86400
_GRANT_ATTEMPTS = 20
_GRANT_PAUSE = 2.0

log = logging.getLogger(__name__)


class Deliveries:
    """Every task that names this release's store."""

    def __init__(self, context: Context, link: StoreLink, datasets: Datasets, node: NodeId) -> None:
        self._context, self._link, self._datasets, self._node = context, link, datasets, node
        self._custody = custody_key(context.key)
        self._granted: dict[SandboxRef, Statement] = {}

    async def tasks(self) -> list[TaskId]:
        """Every task whose inputs lie here, unfinished or of the last day."""
        return list(await self._context.reader.tasks_of(self._node))

    async def reconcile(self, task_id: TaskId) -> float | None:
        """Start what has to be delivered for a task, forget what is over."""
        task = await self._context.reader.task(task_id)
        if self._node not in task.stores:
            return None
        if task.phase in (TaskPhase.COMPLETED, TaskPhase.CLOSED) or task.stopping:
            await self._link.forget_task(task_id)
            self._granted = {key: statement for key, statement in self._granted.items() if key.task != task_id}
            return None
        if task.phase is not TaskPhase.RUNNING:
            return _LOOK_AGAIN_SECONDS
        spec = _spec_of(task)
        states = [await self._deliver(task, spec, index) for index in sorted({item.to for item in self._ours(spec)})]
        return _LOOK_AGAIN_SECONDS if "running" in states else None

    async def answer(self, wanted: GrantWanted) -> None:
        """Judge the sandbox that the store has met, and answer. An unanswered question is asked again; silence makes the store retry."""
        for _ in range(_GRANT_ATTEMPTS):
            try:
                verdict = await self._verdict(wanted)
                await self._link.decide(wanted.sandbox, wanted.resource, verdict)
            except Transient:
                await asyncio.sleep(_GRANT_PAUSE)
            else:
                return

    # -- what to deliver -----------------------------------------------------------------------------------------------------------

    def _ours(self, spec: TaskSpec) -> list[Input]:
        return [item for item in spec.inputs if item.node == self._node]

    async def _deliver(self, task: ChainTask, spec: TaskSpec, index: ServerIndex) -> str:
        try:
            state = await self._link.deliver(await self._order(task, spec, index))
        except Terminal as error:
            if error.reason == "NotStored":
                return "running"  # an upload may still come
            # The sandbox learns it from the silence and its own deadline; the data's owner from here.
            log.warning("delivery.refused", extra={"reason": error.reason})
            await self._warn(spec, index, error.reason, str(error))
            return error.reason
        if state not in ("running", "delivered"):
            await self._warn(spec, index, state, "an input of a task was not delivered")
        return state

    async def _order(self, task: ChainTask, spec: TaskSpec, index: ServerIndex) -> DeliveryOrder:
        objects = []
        now = await self._context.reader.now()
        for item in self._ours(spec):
            if item.to == index:
                await self._judge(task, spec, item, now=now)
                objects.append(DeliveryObject(resource=item.resource, dataset=item.dataset, digest=item.digest, size=item.size))
        descriptor = self._descriptor(task, index)
        return DeliveryOrder(
            sandbox=SandboxRef(task=task.id, index=index),
            objects=tuple(objects),
            statement=task.statements[index],
            relay=descriptor.relay,
            cookie=descriptor.cookie,
            service_key=descriptor.service_key,
            hops=spec.hops,
            in_cluster=spec.relays == "InCluster",
            constant_rate=spec.constant_rate,
            seconds=max(1, min(task.terms.complete_by - now, _ORDER_SECONDS)),
        )

    def _descriptor(self, task: ChainTask, index: ServerIndex) -> Descriptor:
        for sealed in parse_descriptors(task.descriptors):
            if sealed.to == ForStore(node=self._node):
                try:
                    descriptor = open_descriptor(sealed, self._context.node_keys.seal, task=task.id)
                except ProtocolViolation:
                    continue  # one liar among the servers must not keep the others' inputs
                if descriptor.sender == index:
                    return descriptor
        raise ProtocolViolation("NoDescriptor", "the sandbox left no word where this store can meet it", party="agent")

    # -- whom to grant -------------------------------------------------------------------------------------------------------------

    async def _verdict(self, wanted: GrantWanted) -> Grant | str:
        try:
            grant = await self._grant(wanted)
        except Terminal as error:
            log.warning("grant.refused", extra={"reason": error.reason})
            return error.reason
        log.info("grant.made")
        return grant

    async def _grant(self, wanted: GrantWanted) -> Grant:
        # Who asks?
        task = await self._context.reader.task(wanted.sandbox.task)
        statement = parse_statement(wanted.statement, party="agent")
        if SandboxRef(task=statement.task, index=statement.index) != wanted.sandbox or wanted.sandbox.index >= len(task.compute):
            raise ProtocolViolation("StatementRefused", "a statement for another sandbox", party="agent")
        verify_statement(statement, wanted.signature, party="agent")
        server = await self._context.reader.node(task.compute[wanted.sandbox.index])
        verify_countersignature(statement, wanted.server_signature, server.owner, party="agent")

        # For what, and may it?
        spec = _spec_of(task)
        item = next((i for i in self._ours(spec) if i.resource == wanted.resource and i.to == wanted.sandbox.index), None)
        if item is None:
            raise Refused("NotAnInput", "the task does not name this data set for this server")
        await self._judge(task, spec, item, now=await self._context.reader.now(), statement=statement)
        self._once(wanted.sandbox, statement)

        # The key, for this sandbox only.
        data_key = dataset.open_data_key(await self._link.header(item.digest), self._custody)
        return make_grant(data_key, statement=statement, resource=item.resource, digest=item.digest, signer=self._context.key)

    def _once(self, sandbox: SandboxRef, statement: Statement) -> None:
        # The chain takes one set of statements per task; a reorganisation or a lying RPC endpoint could still show another one later.
        earlier = self._granted.get(sandbox)
        if earlier is not None and earlier.digest != statement.digest and earlier.incarnation >= statement.incarnation:
            raise Refused("GrantedToAnother", "this input was granted to another sandbox of the same incarnation")
        self._granted[sandbox] = statement

    async def _judge(self, task: ChainTask, spec: TaskSpec, item: Input, *, now: int, statement: Statement | None = None) -> None:
        found = await self._datasets.find(item.resource)
        resource = await self._context.reader.resource(item.resource)
        offered = judge(
            item=item,
            spec=spec,
            task=task,
            dataset=found[1] if found else None,
            resource=resource,
            node=self._node,
            now=now,
            statement=statement,
        )
        if offered.owner != self._context.writer.address and not offered.store_holds_key:
            raise Refused("OwnerHoldsKey", "custody is Owner and the owner's key is not here")

    async def _warn(self, spec: TaskSpec, index: ServerIndex, reason: str, note: str) -> None:
        for item in self._ours(spec):
            if item.to == index and (found := await self._datasets.find(item.resource)):
                await self._context.events.warning(found[0], reason=reason, note=note, action="Deliver")


def _spec_of(task: ChainTask) -> TaskSpec:
    if spec_hash(task.spec) != task.spec_hash:
        raise ProtocolViolation("BadSpec", "the specification's hash is not the one on chain", party="chain")
    return decode_spec(task.spec)


def task_key(task: TaskId) -> str:
    """The queue's name of a task."""
    return to_hex(task)
