"""Datasets of a storage server: announce to the store, register on chain, say what holds, revoke when deleted.

Level-triggered: every pass looks at the store and the chain again. A revocation is never undone by this operator: what was registered
once under this object and is revoked stays so.
"""

import hashlib
import logging
from typing import Any

from veilpod.control.context import Context
from veilpod.control.store_link import StoreLink
from veilpod.core import dataset_status
from veilpod.core.canonical import to_hex
from veilpod.core.dataset_spec import DatasetSpec, parse_dataset
from veilpod.core.entities import Resource
from veilpod.core.ids import NodeId, ResourceId
from veilpod.core.keys import custody_key
from veilpod.core.kinds import DATASETS
from veilpod.errors import InvalidInput, PeerUnavailable, ProtocolViolation, Refused

FINALIZER = "veilpod.dev/dataset"
_AGAIN_SECONDS = 20.0

log = logging.getLogger(__name__)


class Datasets:
    """The Datasets of one release."""

    def __init__(self, context: Context, link: StoreLink, node: NodeId) -> None:
        self._context, self._link, self._node = context, link, node
        self._custodian = hashlib.sha256(custody_key(context.key).public_bytes).digest()
        self._names: dict[ResourceId, str] = {}

    async def names(self) -> list[str]:
        """Every Dataset there is."""
        found = await self._context.cluster.list_all(DATASETS, namespace=self._context.config.namespace)
        return [item["metadata"]["name"] for item in found]

    def name_of(self, resource: ResourceId) -> str | None:
        """The Dataset's object name of a resource that was seen."""
        return self._names.get(resource)

    async def find(self, resource: ResourceId) -> tuple[dict[str, Any], DatasetSpec] | None:
        """The Dataset of a resource as it is now, with its policy; None when it is not offered (any more)."""
        for body in await self._context.cluster.list_all(DATASETS, namespace=self._context.config.namespace):
            if "deletionTimestamp" not in body["metadata"]:
                spec = parse_dataset(body["spec"], own=self._context.writer.address)
                if spec.resource == resource:
                    return body, spec
        return None

    async def reconcile(self, name: str) -> float | None:
        """Bring one Dataset forward. Seconds until it should be looked at again."""
        body = await self._context.cluster.get(DATASETS, name, namespace=self._context.config.namespace)
        if body is None:
            return None
        spec = parse_dataset(body["spec"], own=self._context.writer.address)
        self._names[spec.resource] = name
        if "deletionTimestamp" in body["metadata"]:
            await self._retire(body, spec)
            return None
        body = await self._hold(body)
        observed = await self._observe(spec)
        if await self._register(body, spec, observed):
            observed = await self._observe(spec)
        found = dataset_status.claims(spec, observed, own=self._context.writer.address, node=self._node)
        await self._write(body, spec, observed, found)
        return None if dataset_status.phase(found) == "Ready" else _AGAIN_SECONDS

    async def _observe(self, spec: DatasetSpec) -> dataset_status.Observed:
        resource = await self._context.reader.resource(spec.resource)
        stored = sealed_to_us = None
        try:
            stored = await self._link.announce_dataset(spec.digest, spec.size)
            sealed_to_us = stored and await self._sealed_to_us(spec)
        except PeerUnavailable:
            log.info("dataset.store_unavailable")
        return dataset_status.Observed(stored=stored, sealed_to_us=sealed_to_us, resource=resource)

    async def _sealed_to_us(self, spec: DatasetSpec) -> bool:
        try:
            header = await self._link.header(spec.digest)
        except (Refused, ProtocolViolation, InvalidInput):
            return False  # bytes with the right digest that are no sealed object
        return header.custodian == self._custodian and header.name == spec.name

    async def _register(self, body: dict[str, Any], spec: DatasetSpec, observed: dataset_status.Observed) -> bool:
        if spec.owner != self._context.writer.address or not observed.stored:
            return False
        seen_before = "resourceId" in body.get("status", {})
        if not (observed.resource is None or (observed.resource.revoked and not seen_before)):
            return False
        await self._context.writer.add_resource(node=self._node, name=spec.name, digest=spec.digest, size=spec.size)
        log.info("dataset.registered")
        await self._context.events.normal(body, reason="Registered", note="the registry on chain lists the data set")
        return True

    async def _write(self, body: dict[str, Any], spec: DatasetSpec, observed: dataset_status.Observed, found: dict[str, Any]) -> None:
        old, generation = body.get("status", {}), body["metadata"].get("generation", 0)
        status: dict[str, Any] = {
            "phase": dataset_status.phase(found),
            "observedGeneration": generation,
            "nodeId": int(self._node),
            "conditions": dataset_status.merge(old.get("conditions", []), found, now=self._context.clock(), generation=generation),
        }
        if "resourceId" in old or (observed.resource is not None and not observed.resource.revoked):
            status["resourceId"] = to_hex(spec.resource)
        if status != old:
            await self._context.cluster.patch_status(DATASETS, body["metadata"]["name"], status, namespace=body["metadata"]["namespace"])
            self._context.metrics.status_writes.labels(DATASETS.plural).inc()
            log.info("dataset.status", extra={"phase": status["phase"]})

    async def _hold(self, body: dict[str, Any]) -> dict[str, Any]:
        held = body["metadata"].get("finalizers", [])
        if FINALIZER in held:
            return body
        return await self._finalizers(body, [*held, FINALIZER]) or body

    async def _retire(self, body: dict[str, Any], spec: DatasetSpec) -> None:
        held = body["metadata"].get("finalizers", [])
        if FINALIZER not in held:
            return
        # The chain first: from here on nobody may schedule with it.
        resource = await self._context.reader.resource(spec.resource)
        if spec.owner == self._context.writer.address and _listed(resource, spec, self._node):
            await self._context.writer.revoke_resource(spec.resource)
            log.info("dataset.revoked")
        if not await self._shared(body, spec):
            await self._link.forget_dataset(spec.digest)
        await self._finalizers(body, [name for name in held if name != FINALIZER])
        self._names.pop(spec.resource, None)
        log.info("dataset.removed")

    async def _shared(self, body: dict[str, Any], spec: DatasetSpec) -> bool:
        others = await self._context.cluster.list_all(DATASETS, namespace=self._context.config.namespace)
        mine = body["metadata"]["uid"]
        return any(other["metadata"]["uid"] != mine and other["spec"]["digest"] == body["spec"]["digest"] for other in others)

    async def _finalizers(self, body: dict[str, Any], names: list[str]) -> dict[str, Any] | None:
        metadata = body["metadata"]
        return await self._context.cluster.set_finalizers(
            DATASETS,
            metadata["name"],
            names,
            resource_version=metadata["resourceVersion"],
            uid=metadata["uid"],
            namespace=metadata["namespace"],
        )


def _listed(resource: Resource | None, spec: DatasetSpec, node: NodeId) -> bool:
    return resource is not None and not resource.revoked and resource.node == node and resource.digest == spec.digest
