"""A Kubernetes API server in memory behind ports.Cluster: namespaces, UIDs, finalizers, graceful deletion, watches, the CRDs' law.

`changed` is called after every change; a `Kubelet` (or a test) plays the node.
"""

import asyncio
import copy
import datetime
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from veilpod.core.kinds import PODS, Kind
from veilpod.errors import ClusterUnavailable, InvalidInput

GRACE = 10
Place = tuple[str, str, str]  # (plural, namespace, name)


class FakeCluster:
    """One cluster. `writes` counts API writes by kind; `down` makes every answer ClusterUnavailable."""

    def __init__(self) -> None:
        self.objects: dict[Place, dict[str, Any]] = {}
        self.writes: dict[str, int] = {}
        self.down = False
        self.listeners: list[Callable[[str, Kind, dict[str, Any]], None]] = []
        self._version = 0
        self._watchers: list[tuple[Kind, str, dict[str, str], asyncio.Queue[tuple[str, dict[str, Any]]]]] = []

    # -- ports.Cluster

    async def get(self, kind: Kind, name: str, *, namespace: str | None = None) -> dict[str, Any] | None:
        self._up()
        return copy.deepcopy(self.objects.get((kind.plural, namespace or "", name)))

    async def list_all(self, kind: Kind, *, namespace: str | None = None, labels: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        self._up()
        found = [body for (plural, place, _), body in sorted(self.objects.items()) if (plural, place) == (kind.plural, namespace or "")]
        return copy.deepcopy([body for body in found if _selected(body, labels)])

    async def create(self, kind: Kind, body: Mapping[str, Any], *, namespace: str | None = None, exists_ok: bool = False) -> dict[str, Any]:
        self._up()
        place = (kind.plural, namespace or "", body["metadata"]["name"])
        if place in self.objects:
            if exists_ok:
                return copy.deepcopy(self.objects[place])
            raise ClusterUnavailable("already exists")
        return self.put(kind, body, namespace=namespace)

    async def delete(self, kind: Kind, name: str, *, uid: str, namespace: str | None = None, resource_version: str | None = None) -> bool:
        self._up()
        place = (kind.plural, namespace or "", name)
        body = self.objects.get(place)
        if body is None:
            return False
        if body["metadata"]["uid"] != uid:
            raise ClusterUnavailable("another UID")
        self._count(kind)
        metadata = body["metadata"]
        if "deletionTimestamp" not in metadata:
            metadata["deletionTimestamp"] = _stamp()
            metadata["deletionGracePeriodSeconds"] = GRACE if kind is PODS and body["spec"].get("nodeName") else 0
        self._settle(kind, place)
        return True

    async def patch_status(self, kind: Kind, name: str, status: Mapping[str, Any], *, namespace: str | None = None) -> dict[str, Any]:
        self._up()
        body = self.objects.get((kind.plural, namespace or "", name))
        if body is None:
            raise ClusterUnavailable("gone")
        old = body.get("status", {})
        new = {**old, **copy.deepcopy(dict(status))}
        _check_law(old, new)
        body["status"] = new
        self._count(kind)
        return self._touch(kind, body)

    async def set_finalizers(
        self, kind: Kind, name: str, finalizers: Sequence[str], *, resource_version: str, uid: str, namespace: str | None = None
    ) -> dict[str, Any] | None:
        self._up()
        place = (kind.plural, namespace or "", name)
        body = self.objects.get(place)
        if body is None:
            return None
        if body["metadata"]["resourceVersion"] != resource_version or body["metadata"]["uid"] != uid:
            raise ClusterUnavailable("changed under us")
        body["metadata"]["finalizers"] = list(finalizers)
        self._count(kind)
        self._settle(kind, place)
        return copy.deepcopy(self.objects.get(place))

    async def watch(
        self, kind: Kind, *, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        queue: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        watcher = (kind, namespace or "", dict(labels or {}), queue)
        self._watchers.append(watcher)
        try:
            for body in await self.list_all(kind, namespace=namespace, labels=labels):
                yield "LISTED", body
            while True:
                yield await queue.get()
        finally:
            self._watchers.remove(watcher)

    # -- what people and nodes do

    def put(self, kind: Kind, body: Mapping[str, Any], *, namespace: str | None = None) -> dict[str, Any]:
        """Create an object as it is."""
        made = copy.deepcopy(dict(body))
        made |= {"apiVersion": kind.api_version, "kind": kind.name}
        made["metadata"] = {
            "namespace": namespace or "",
            "uid": str(uuid.uuid4()),
            "generation": 1,
            "creationTimestamp": _stamp(),
            **made.get("metadata", {}),
        }
        self.objects[kind.plural, namespace or "", made["metadata"]["name"]] = made
        self._count(kind)
        return self._touch(kind, made, "ADDED")

    def ask_deletion(self, kind: Kind, name: str, *, namespace: str | None = None) -> None:
        """What `kubectl delete` does."""
        place = (kind.plural, namespace or "", name)
        self.objects[place]["metadata"]["deletionTimestamp"] = _stamp()
        self._settle(kind, place)

    def modify(self, kind: Kind, name: str, change: Callable[[dict[str, Any]], None], *, namespace: str | None = None) -> None:
        """Change an object behind everybody's back."""
        place = (kind.plural, namespace or "", name)
        if (body := self.objects.get(place)) is not None:
            change(body)
            self._settle(kind, place)

    def _settle(self, kind: Kind, place: Place) -> None:
        body = self.objects[place]
        metadata = body["metadata"]
        over = "deletionTimestamp" in metadata and not metadata.get("finalizers")
        if over and metadata.get("deletionGracePeriodSeconds", 0) == 0:
            del self.objects[place]
            self._touch(kind, body, "DELETED")
        else:
            self._touch(kind, body)

    def _touch(self, kind: Kind, body: dict[str, Any], change: str = "MODIFIED") -> dict[str, Any]:
        self._version += 1
        body["metadata"]["resourceVersion"] = str(self._version)
        shown = copy.deepcopy(body)
        for watched, namespace, labels, queue in self._watchers:
            if watched is kind and namespace == body["metadata"]["namespace"] and _selected(body, labels):
                queue.put_nowait((change, shown))
        for listener in self.listeners:
            listener(change, kind, shown)
        return copy.deepcopy(body)

    def _count(self, kind: Kind) -> None:
        self.writes[kind.name] = self.writes.get(kind.name, 0) + 1

    def _up(self) -> None:
        if self.down:
            raise ClusterUnavailable("the API server is down")


def true_conditions(body: Mapping[str, Any]) -> set[str]:
    """The types that stand at True."""
    return {item["type"] for item in (body.get("status") or {}).get("conditions", []) if item["status"] == "True"}


def _check_law(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """The CEL rules of the CRDs, in Python."""
    before, after = true_conditions({"status": old}), true_conditions({"status": new})
    types = {item["type"] for item in new.get("conditions", [])}
    present = {item["type"] for item in old.get("conditions", [])}
    if not present <= types:
        raise InvalidInput("Invalid", f"conditions vanished: {present - types}")
    if "SandboxDestroyed" in before and "SandboxDestroyed" not in after:
        raise InvalidInput("Invalid", "SandboxDestroyed never reverts")
    if "Settled" in after and "SandboxDestroyed" in types and "SandboxDestroyed" not in after:
        raise InvalidInput("Invalid", "Settled only after SandboxDestroyed")
    if "KeyPublished" in after - before and not {"NetworkIsolated"} <= after:
        raise InvalidInput("Invalid", "KeyPublished only with NetworkIsolated")
    promised = {item["type"] for item in new.get("conditions", []) if item["reason"] != "NotPromised"}
    if "KeyPublished" in after - before and "HostAccessDenied" in promised - after:
        raise InvalidInput("Invalid", "KeyPublished only with HostAccessDenied")
    for field in ("taskId", "taskKey", "resultHash"):
        if field in old and old[field] != new.get(field):
            raise InvalidInput("Invalid", f"{field} is written once")


def _selected(body: Mapping[str, Any], labels: Mapping[str, str] | None) -> bool:
    return dict(labels or {}).items() <= (body["metadata"].get("labels") or {}).items()


def _stamp() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
