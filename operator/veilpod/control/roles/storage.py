"""The storage server's role: its node on chain, its store, its Datasets, and what tasks ask of them. Paper steps 0 and 5.

Thin: `storage_datasets` and `storage_deliveries` hold the rules; here they are wired to the operator's queue, chain and store.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from veilpod.control.context import Context
from veilpod.control.directory import relay_directory, service_endpoint
from veilpod.control.nodes import ensure_node, keep_alive
from veilpod.control.role import Key
from veilpod.control.storage_datasets import Datasets
from veilpod.control.storage_deliveries import Deliveries, task_key
from veilpod.control.store_link import StoreLink, locate_pod
from veilpod.core.canonical import from_hex
from veilpod.core.entities import ChainEvent
from veilpod.core.entities import Role as NodeRole
from veilpod.core.ids import ResourceId, TaskId
from veilpod.core.kinds import DATASETS
from veilpod.core.store_messages import parse_delivery_event, parse_grant_wanted

DELIVERIES = "deliveries"  # keys of the queue that are tasks on chain, not objects
_TASK_EVENTS = frozenset({"Assigned", "KeyPublished", "Stopping", "Completed", "Closed"})

log = logging.getLogger(__name__)


async def create(context: Context) -> "StorageRole":
    """Make the role."""
    return StorageRole(context)


class StorageRole:
    """A control.role.Role."""

    name = "storage"
    kinds: Sequence[str] = (DATASETS.plural, DELIVERIES)

    def __init__(self, context: Context) -> None:
        self._context = context
        self._link = StoreLink(
            locate=locate_pod(context.cluster, namespace=context.config.namespace, service=context.config.store_service),
            connect=context.connect,
            seal_key=context.node_keys.seal.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()),
            directory=lambda: relay_directory(context),
            on_event=self._on_event,
            on_ready=self._on_ready,
        )
        self._datasets: Datasets
        self._deliveries: Deliveries

    async def start(self) -> None:
        endpoint = await service_endpoint(self._context, self._context.config.store_service)
        node = await ensure_node(self._context, role=NodeRole.STORAGE, endpoint=endpoint)
        self._datasets = Datasets(self._context, self._link, node)
        self._deliveries = Deliveries(self._context, self._link, self._datasets, node)
        self._context.tasks.start("storage.heartbeat", lambda: keep_alive(self._context, node))
        self._context.tasks.start("storage.store", self._link.run)

    async def stop(self) -> None:
        """Nothing to do: the background tasks end with their group."""

    async def reconcile(self, key: Key) -> float | None:
        if key.kind == DELIVERIES:
            return await self._deliveries.reconcile(TaskId(from_hex(key.name, 32)))
        return await self._datasets.reconcile(key.name)

    def interested(self, event: ChainEvent) -> Iterable[Key]:
        if event.contract == "TaskScheduler" and event.name in _TASK_EVENTS:
            yield Key(kind=DELIVERIES, name=task_key(TaskId(event.subject)))
        elif event.contract == "NodeRegistry" and (name := self._datasets.name_of(ResourceId(event.subject))):
            yield Key(kind=DATASETS.plural, name=name)

    async def resync(self) -> Iterable[Key]:
        datasets = [Key(kind=DATASETS.plural, name=name) for name in await self._datasets.names()]
        return [*datasets, *[Key(kind=DELIVERIES, name=task_key(task)) for task in await self._deliveries.tasks()]]

    async def _on_event(self, event: str, data: dict[str, Any]) -> None:
        # An event is handled after its acknowledgement too: everything here is idempotent and asked for again after a loss.
        if event == "grant-wanted":
            wanted = parse_grant_wanted(data)
            self._context.tasks.start("storage.grant", lambda: self._deliveries.answer(wanted))
        elif event == "stored":
            for key in await self.resync():
                self._context.enqueue(key)
        elif event in ("delivered", "delivery-failed"):
            sandbox, code = parse_delivery_event(data)
            log.info("delivery.ended", extra={"code": code or "delivered"})
            self._context.enqueue(Key(kind=DELIVERIES, name=task_key(sandbox.task)))

    def _on_ready(self) -> None:
        # A store that was just (re)started knows nothing: every Dataset and every delivery is told again.
        self._context.tasks.start("storage.tell", self._tell)

    async def _tell(self) -> None:
        for key in await self.resync():
            self._context.enqueue(key)
