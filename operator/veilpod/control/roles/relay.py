"""The relay owner's role: for each OnionRelay its replicas, each a relay of its own, and an entry of the directory on chain for each.

Level-triggered: each reconciliation takes every replica that should be to where it should be (control.relay_replica), lets the others end,
and tells in the status what it saw. Replicas of one OnionRelay have one owner, so no circuit has two of them: they add capacity, not
diversity. When an OnionRelay is deleted all its replicas leave in the same way, and then it goes. Paper step 0 for onion routers, and what
step 5 stands on.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from veilpod.control.context import Context
from veilpod.control.relay_identities import Identities
from veilpod.control.relay_replica import RelayReplica, Seen, owned_by
from veilpod.control.role import Key
from veilpod.core.entities import ChainEvent
from veilpod.core.kinds import ONION_RELAYS, POD_DISRUPTION_BUDGETS, PODS, SERVICES
from veilpod.core.onion.relay_status import Replica, replicas_of, status_of
from veilpod.kube import relay_manifests

FINALIZER = "veilpod.dev/relay"
_SOON, _LATER = 3.0, 60.0


async def create(context: Context) -> "RelayRole":
    """Make the role."""
    return RelayRole(context)


class RelayRole:
    """Implements control.role.Role."""

    name = "relay"
    kinds: Sequence[str] = (ONION_RELAYS.plural,)

    def __init__(self, context: Context) -> None:
        self._context = context
        self._replicas: dict[str, dict[int, RelayReplica]] = {}  # by OnionRelay and ordinal
        self._identities = Identities()
        self._names: set[str] = set()

    async def start(self) -> None:
        self._context.tasks.start("relay.pods", self._watch_pods)

    async def stop(self) -> None:
        for name in list(self._replicas):
            await self._drop(name)

    def interested(self, event: ChainEvent) -> Iterable[Key]:
        if event.contract == "NodeRegistry" and event.name.startswith("Node"):
            return [Key(kind=ONION_RELAYS.plural, name=name) for name in sorted(self._names)]
        return ()

    async def resync(self) -> Iterable[Key]:
        found = await self._context.cluster.list_all(ONION_RELAYS, namespace=self._context.config.namespace)
        self._names = {item["metadata"]["name"] for item in found}
        return [Key(kind=ONION_RELAYS.plural, name=name) for name in sorted(self._names)]

    async def reconcile(self, key: Key) -> float | None:
        relay = await self._context.cluster.get(ONION_RELAYS, key.name, namespace=self._context.config.namespace)
        if relay is None:
            await self._drop(key.name)
            self._names.discard(key.name)
            return None
        self._names.add(key.name)
        finalizers = relay["metadata"].get("finalizers", [])
        if "deletionTimestamp" in relay["metadata"]:
            return await self._remove(relay) if FINALIZER in finalizers else None
        if FINALIZER not in finalizers:
            relay = await self._set_finalizers(relay, [*finalizers, FINALIZER]) or relay
        return await self._serve(relay)

    async def _watch_pods(self) -> None:
        """Look again when a pod changes: a new pod is in the directory as soon as it runs."""
        config = self._context.config
        labels = {"app.kubernetes.io/instance": config.release, "veilpod.dev/component": "relay"}
        async for _, pod in self._context.cluster.watch(PODS, namespace=config.namespace, labels=labels):
            if name := pod["metadata"]["labels"].get(relay_manifests.SET_LABEL):
                self._context.enqueue(Key(kind=ONION_RELAYS.plural, name=name))

    async def _serve(self, relay: dict[str, Any]) -> float:
        """Take every replica a step further: those below `replicas` serve, the others leave."""
        metadata = relay["metadata"]
        budget = relay_manifests.budget(relay, release=self._context.config.release)
        await self._context.cluster.apply(POD_DISRUPTION_BUDGETS, budget, namespace=metadata["namespace"])
        left = await self._look(relay, set(range(int(relay["spec"].get("replicas", 1)))))
        settled = all(item.leaving_since is None and item.ready != "PodPending" and item.registered != "Registering" for item in left)
        return _LATER if settled else _SOON

    async def _remove(self, relay: dict[str, Any]) -> float | None:
        """Let every replica leave, then the object go."""
        if await self._look(relay, set()):
            return _SOON
        await self._drop(relay["metadata"]["name"])
        await self._set_finalizers(relay, [name for name in relay["metadata"]["finalizers"] if name != FINALIZER])
        return None

    async def _look(self, relay: dict[str, Any], wanted: set[int]) -> list[Replica]:
        """Look at all replicas at once and report. Returns those that are left. Raises the first error when all have been looked at."""
        known, ours = replicas_of(relay.get("status", {})), self._replicas.setdefault(relay["metadata"]["name"], {})
        ordinals = sorted(wanted | known.keys() | await self._addressed(relay))
        async with asyncio.TaskGroup() as group:
            looks = []
            for ordinal in ordinals:
                replica = ours.setdefault(ordinal, RelayReplica(self._context, ordinal, self._identities))
                was = known.get(ordinal, Replica(ordinal=ordinal))
                looks.append(group.create_task(replica.serve(relay, was) if ordinal in wanted else replica.leave(relay, was)))
        seen: list[Seen] = [look.result() for look in looks]
        for ordinal, (replica_seen, _) in zip(ordinals, seen, strict=True):
            if replica_seen is None:
                del ours[ordinal]
        left = [item for item, _ in seen if item is not None]
        await self._report(relay, left)
        for _, error in seen:
            if error is not None:
                raise error
        return left

    async def _addressed(self, relay: dict[str, Any]) -> set[int]:
        """The replicas that have a Service, which is the first of a replica's objects to come and the last to go."""
        metadata = relay["metadata"]
        labels = relay_manifests.set_selector(release=self._context.config.release, relay=metadata["name"])
        found = await self._context.cluster.list_all(SERVICES, namespace=metadata["namespace"], labels=labels)
        return {int(item["metadata"]["labels"][relay_manifests.ORDINAL_LABEL]) for item in found if owned_by(item, relay)}

    async def _set_finalizers(self, relay: dict[str, Any], names: list[str]) -> dict[str, Any] | None:
        metadata = relay["metadata"]
        return await self._context.cluster.set_finalizers(
            ONION_RELAYS,
            metadata["name"],
            names,
            resource_version=metadata["resourceVersion"],
            uid=metadata["uid"],
            namespace=metadata["namespace"],
        )

    async def _drop(self, name: str) -> None:
        for replica in self._replicas.pop(name, {}).values():
            await replica.drop()
            self._identities.release(replica)

    async def _report(self, relay: dict[str, Any], replicas: Sequence[Replica]) -> None:
        """Write the status if it differs. What was written becomes the object's, for its version is asked for once more."""
        old, metadata = relay.get("status", {}), relay["metadata"]
        status = status_of(old, replicas, now=self._context.clock(), generation=metadata.get("generation", 0))
        if status != old:
            written = await self._context.cluster.patch_status(ONION_RELAYS, metadata["name"], status, namespace=metadata["namespace"])
            metadata["resourceVersion"] = written["metadata"]["resourceVersion"]
