"""Both ways, at start and every minute: what the chain says must have an object here, and what is here must have a reason on chain.

    assigned on chain, no TaskAssignment     -> made
    facts on disk, no TaskAssignment         -> made again from the chain (somebody removed it by force)
    pod without an assignment                -> deleted by UID, its end watched, counted as an orphan
    settled and over for a day               -> object and facts go

Users of such systems complain most of exactly these (pods that outlive the deal, deals that outlive the pods): events are only hints.
"""

import contextlib
import datetime
import logging
from typing import Any

from veilpod.control import status
from veilpod.control.compute_effects import release_pod
from veilpod.control.compute_view import ASSIGNMENT_LABEL
from veilpod.control.context import Context
from veilpod.control.facts_store import FactsStore
from veilpod.control.role import Key
from veilpod.core.canonical import from_hex, to_hex
from veilpod.core.entities import ChainTask, TaskPhase
from veilpod.core.ids import NodeId, ServerIndex, TaskId
from veilpod.core.kinds import PODS, STATE_CHANNELS, TASK_ASSIGNMENTS
from veilpod.core.task import conditions
from veilpod.core.task import spec as specs
from veilpod.core.task.pods import read_pod
from veilpod.errors import ProtocolViolation

log = logging.getLogger(__name__)
TASKS = "tasks"  # keys that are tasks on chain, not objects
KEEP_SECONDS = 24 * 3600
_MAX_SPEC = 262144


def task_key(task: TaskId) -> Key:
    """The key of a task on chain."""
    return Key(kind=TASKS, name=to_hex(task))


class Sweep:
    """Compares the worlds."""

    def __init__(self, context: Context, facts: FactsStore, node: NodeId) -> None:
        self._context, self._facts, self._node = context, facts, node
        self._namespace = context.config.namespace

    async def everything(self) -> list[Key]:
        """Every key there is, after mending what differs."""
        tasks, assignments, channels, pods = await status.together(
            self._context.reader.tasks_of(self._node),
            self._context.cluster.list_all(TASK_ASSIGNMENTS, namespace=self._namespace),
            self._context.cluster.list_all(STATE_CHANNELS, namespace=self._namespace),
            self._context.cluster.list_all(
                PODS, namespace=self._context.config.sandbox_namespace, labels={"veilpod.dev/component": "sandbox"}
            ),
        )
        names = {body["metadata"]["name"] for body in assignments}
        adopted = {body["spec"]["taskId"] for body in assignments}
        keys = [Key(kind=TASK_ASSIGNMENTS.plural, name=name) for name in sorted(names)]
        keys += [Key(kind=STATE_CHANNELS.plural, name=body["metadata"]["name"]) for body in channels]
        keys += [task_key(task) for task in tasks if to_hex(task) not in adopted]
        for name in self._facts.names():
            known = self._facts.find(name)
            if name in names or known is None:
                continue
            if not known.facts.destroyed:
                keys.append(task_key(known.task))
            elif all(body["spec"]["assignment"] != name for body in channels):
                self._facts.forget(name)  # nothing is owed any more, and nobody will ask
        await self._orphans(pods, names)
        await self._retire([*assignments, *channels])
        return keys

    async def adopt(self, text: str) -> None:
        """Make the TaskAssignment of a task that was assigned to us. Repeating it is fine."""
        task = await self._context.reader.task(TaskId(from_hex(text, 32)))
        if self._node not in task.compute:
            return
        index = ServerIndex(task.compute.index(self._node))
        name = specs.assignment_name(task.id, index)
        known = self._facts.find(name)
        live = task.phase in (TaskPhase.ASSIGNED, TaskPhase.RUNNING) and not task.reported & (1 << index)
        if not live and (known is None or known.facts.destroyed):
            return
        if len(task.spec) > _MAX_SPEC:
            log.warning("assignment.too_large", extra={"object": name})
            return
        self._facts.begin(name, task.id, index)
        body = self._manifest(name, index, task)
        made = await self._context.cluster.create(TASK_ASSIGNMENTS, body, namespace=self._namespace, exists_ok=True)
        if made["spec"]["taskId"] != to_hex(task.id):
            log.error("assignment.name_taken", extra={"object": name})
            return
        log.info("assignment.made", extra={"object": name})
        self._context.enqueue(Key(kind=TASK_ASSIGNMENTS.plural, name=name))

    def _manifest(self, name: str, index: ServerIndex, task: ChainTask) -> dict[str, Any]:
        role, sandbox_class = "unknown", "unknown"
        with contextlib.suppress(ProtocolViolation, IndexError):
            spec = specs.decode_spec(task.spec)
            role, sandbox_class = spec.servers[index].role.name, spec.sandbox_class
        return {
            "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "veilpod"}, "finalizers": [status.FINALIZER]},
            "spec": {
                "taskId": to_hex(task.id),
                "index": int(index),
                "role": role[:32],
                "node": int(self._node),
                "requester": task.requester,
                "specHash": to_hex(task.spec_hash),
                "sandboxClassName": sandbox_class[:63],
                "task": task.spec.decode(),
            },
        }

    async def _orphans(self, pods: list[dict[str, Any]], names: set[str]) -> None:
        for body in pods:
            metadata = body["metadata"]
            name = (metadata.get("labels") or {}).get(ASSIGNMENT_LABEL, "")
            if name in names or self._facts.find(name) is not None:
                continue
            seen = read_pod(body, nonce="", now=self._context.clock())
            if not seen.deleting:
                self._context.metrics.orphans.labels("Pod").inc()
                log.warning("orphan.found", extra={"kind": "Pod"})
                await self._context.cluster.delete(PODS, seen.name, uid=seen.uid, namespace=self._context.config.sandbox_namespace)
            elif seen.terminated and seen.kubelet_done and seen.finalizer:
                await release_pod(self._context, seen.name, seen.uid)
                log.info("orphan.gone", extra={"kind": "Pod"})

    async def _retire(self, bodies: list[dict[str, Any]]) -> None:
        """Delete what was settled a day ago; its finalizer still looks at the chain once more."""
        for body in bodies:
            settled = status.true_since(body, conditions.Type.SETTLED)
            if status.is_deleting(body) or settled is None:
                continue
            if self._context.clock() - datetime.datetime.fromisoformat(settled).timestamp() < KEEP_SECONDS:
                continue
            kind = TASK_ASSIGNMENTS if "taskId" in body["spec"] else STATE_CHANNELS
            metadata = body["metadata"]
            await self._context.cluster.delete(kind, metadata["name"], uid=metadata["uid"], namespace=self._namespace)
            log.info("object.retired", extra={"kind": kind.name})
