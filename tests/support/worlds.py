"""A chain and a cluster in memory, behind the ports that roles are written against. What the real ones would refuse, they refuse."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from veilpod.core.dataset_spec import resource_id
from veilpod.core.entities import ChainTask, Node, NodeStatus, Resource, Role
from veilpod.core.ids import Address, NodeId, ResourceId, TaskId
from veilpod.core.kinds import Kind
from veilpod.errors import ChainRejected, ChainUnavailable, ClusterUnavailable

NOW = 1_790_000_000


class MemoryCluster:
    """Objects by kind and name, of one namespace. `writes` counts what changed them."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.writes = 0
        self._version = 0

    def put(self, kind: Kind, name: str, **fields: Any) -> dict[str, Any]:
        """What a person applies."""
        self._version += 1
        metadata = {"name": name, "namespace": self.namespace, "uid": f"uid-{self._version}", "generation": 1}
        body = {"apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata | fields.pop("metadata", {}), **fields}
        self.objects[kind.plural, name] = body
        return self._touched(body)

    def ask_deletion(self, kind: Kind, name: str) -> None:
        """What `kubectl delete` does to an object with finalizers."""
        self.objects[kind.plural, name]["metadata"]["deletionTimestamp"] = "2026-09-21T14:13:20Z"  # NOW

    async def get(self, kind: Kind, name: str, *, namespace: str | None = None) -> dict[str, Any] | None:
        return copy.deepcopy(self.objects.get((kind.plural, name)))

    async def list_all(self, kind: Kind, *, namespace: str | None = None, labels: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        found = [body for (plural, _), body in sorted(self.objects.items()) if plural == kind.plural]
        chosen = [body for body in found if dict(labels or {}).items() <= body["metadata"].get("labels", {}).items()]
        return copy.deepcopy(chosen)

    async def create(self, kind: Kind, body: Mapping[str, Any], *, namespace: str | None = None, exists_ok: bool = False) -> dict[str, Any]:
        name = body["metadata"]["name"]
        if (kind.plural, name) not in self.objects:
            self.objects[kind.plural, name] = copy.deepcopy(dict(body))
        return self._touched(self.objects[kind.plural, name])

    async def patch_status(self, kind: Kind, name: str, status: Mapping[str, Any], *, namespace: str | None = None) -> dict[str, Any]:
        body = self.objects[kind.plural, name]
        body["status"] = {**body.get("status", {}), **copy.deepcopy(dict(status))}
        return self._touched(body)

    async def set_finalizers(
        self, kind: Kind, name: str, finalizers: Sequence[str], *, resource_version: str, uid: str, namespace: str | None = None
    ) -> dict[str, Any] | None:
        body = self.objects[kind.plural, name]
        if body["metadata"]["resourceVersion"] != resource_version or body["metadata"]["uid"] != uid:
            raise ClusterUnavailable("changed under us")
        body["metadata"]["finalizers"] = list(finalizers)
        if not finalizers and "deletionTimestamp" in body["metadata"]:
            del self.objects[kind.plural, name]
            return None
        return self._touched(body)

    def _touched(self, body: dict[str, Any]) -> dict[str, Any]:
        self.writes += 1
        self._version += 1
        body["metadata"]["resourceVersion"] = str(self._version)
        return copy.deepcopy(body)


class MemoryChain:
    """A registry and a scheduler; reader and writer in one, for one account. `down` makes every answer ChainUnavailable."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.nodes: dict[NodeId, Node] = {}
        self.resources: dict[ResourceId, Resource] = {}
        self.tasks: dict[TaskId, ChainTask] = {}
        self.time = NOW
        self.down = False

    async def now(self) -> int:
        return self._up(self.time)

    async def node(self, node: NodeId) -> Node:
        return self._up(self.nodes[node])

    async def directory(self, roles: Role) -> Sequence[Node]:
        return self._up([node for node in self.nodes.values() if node.roles & roles])

    async def resource(self, resource: ResourceId) -> Resource | None:
        return self._up(self.resources.get(resource))

    async def task(self, task: TaskId) -> ChainTask:
        return self._up(self.tasks[task])

    async def tasks_of(self, node: NodeId) -> Sequence[TaskId]:
        return self._up([task.id for task in self.tasks.values() if node in (*task.compute, *task.stores)])

    async def register(self, *, roles: Role, capacity: int, identity_key: bytes, onion_key: bytes, endpoint: str, proof: bytes) -> NodeId:
        self._up(None)
        new = NodeId(max(self.nodes, default=0) + 1)
        self.nodes[new] = Node(
            id=new,
            owner=self.address,
            roles=roles,
            status=NodeStatus.ACTIVE,
            key_epoch=1,
            updated_at=self.time,
            capacity=capacity,
            identity_key=identity_key,
            onion_key=onion_key,
            endpoint=endpoint,
            proof=proof,
        )
        return new

    async def set_endpoint(self, node: NodeId, endpoint: str) -> None:
        self.nodes[node] = dataclasses.replace(self.nodes[node], endpoint=endpoint)

    async def set_capacity(self, node: NodeId, capacity: int) -> None:
        self.nodes[node] = dataclasses.replace(self.nodes[node], capacity=capacity)

    async def set_status(self, node: NodeId, status: NodeStatus) -> None:
        self._up(None)
        assert self.nodes[node].status is not NodeStatus.RETIRED
        self.nodes[node] = dataclasses.replace(self.nodes[node], status=status)

    async def heartbeat(self, node: NodeId) -> None:
        self.nodes[node] = dataclasses.replace(self.nodes[node], updated_at=self.time)

    async def add_resource(self, *, node: NodeId, name: str, digest: bytes, size: int) -> ResourceId:
        self._up(None)
        new = resource_id(self.address, name)
        if new in self.resources and not self.resources[new].revoked:
            raise ChainRejected("RevokeResourceFirst", "revoke it first")
        self.resources[new] = Resource(id=new, owner=self.address, node=node, revoked=False, digest=digest, size=size, name=name)
        return new

    async def revoke_resource(self, resource: ResourceId) -> None:
        self._up(None)
        if self.resources[resource].revoked:
            raise ChainRejected("AddResourceFirst", "it is revoked")
        self.resources[resource] = dataclasses.replace(self.resources[resource], revoked=True)

    def _up(self, value: Any) -> Any:
        if self.down:
            raise ChainUnavailable("no answer")
        return value
