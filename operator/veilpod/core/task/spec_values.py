"""The values that a task's specification is made of, and its one spelling on chain (docs/protocol/task.md). `spec` reads it back."""

import dataclasses
from typing import Any

from veilpod.core.canonical import canonical, to_hex
from veilpod.core.entities import NATIVE
from veilpod.core.fields import address_bytes
from veilpod.core.ids import Address, NodeId, ResourceId, ServerIndex


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What runs: public image, command and environment, never secrets. `memory` in bytes, `cpu` as Kubernetes spells it."""

    image: str
    command: tuple[str, ...]
    env: tuple[tuple[str, str], ...]  # sorted by name
    cpu: str
    memory: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TaskRole:
    """A part that `replicas` computing servers play."""

    name: str
    replicas: int
    args: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Who talks to whom, on which TCP ports."""

    type: str = "None"
    hub: str = ""
    ports: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A data resource as the registry had it, and which server gets it under which path."""

    dataset: str
    resource: ResourceId
    node: NodeId
    owner: Address
    digest: bytes
    size: int
    to: ServerIndex
    path: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ResultSpec:
    """Which server's output is the result, who may read it (`veil1…`), how large it may be, where it is delivered."""

    sender: ServerIndex
    recipient: str
    max_size: int
    mailbox: NodeId


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """Units of `asset`: wei of the chain's coin, or the smallest part of an ERC-20 token.

    `lane`: which of the requester's channels between two servers is used; tasks that run side by side have different ones.
    """

    per_server: int
    per_transfer_mib: int
    channel_deposit: int
    lane: int = 0
    asset: Address = NATIVE


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Seconds. `total` is larger than the sum of the others."""

    schedule: int
    inputs: int
    compute: int
    total: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Quorum:
    """The task goes on while at least `min` servers of `role` do. An empty role: every server is needed."""

    role: str = ""
    min: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One computing server's place in the flattened roles."""

    index: ServerIndex
    role: TaskRole
    ordinal: int  # within the role


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """The whole specification. `encode` and `decode_spec` are inverse."""

    program: Program
    roles: tuple[TaskRole, ...]
    topology: Topology
    inputs: tuple[Input, ...]
    result: ResultSpec
    payment: Payment
    deadlines: Deadlines
    quorum: Quorum
    hops: int
    relays: str
    sandbox_class: str
    constant_rate: int = 0  # bytes a second of each leg, 0 for as they come

    @property
    def servers(self) -> tuple[Server, ...]:
        """Every computing server, by index."""
        flat = [(role, ordinal) for role in self.roles for ordinal in range(role.replicas)]
        return tuple(Server(index=ServerIndex(index), role=role, ordinal=ordinal) for index, (role, ordinal) in enumerate(flat))

    @property
    def links(self) -> tuple[tuple[ServerIndex, ServerIndex], ...]:
        """Pairs of servers that talk to each other and share a channel, the hub first in a Star."""
        servers = self.servers
        if self.topology.type == "Star":
            hub = next(server.index for server in servers if server.role.name == self.topology.hub)
            return tuple((hub, server.index) for server in servers if server.index != hub)
        if self.topology.type == "Mesh":
            return tuple((one.index, two.index) for one in servers for two in servers if one.index < two.index)
        return ()

    def peers(self, index: ServerIndex) -> tuple[ServerIndex, ...]:
        """Who server `index` shares a channel with."""
        return tuple(ServerIndex(sum(link) - index) for link in self.links if index in link)

    @property
    def stores(self) -> tuple[NodeId, ...]:
        """The storage nodes that hold an input, each once, in order."""
        return tuple(sorted({item.node for item in self.inputs}))

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "version": 1,
            "program": {
                "image": self.program.image,
                "command": list(self.program.command),
                "env": dict(self.program.env),
                "cpu": self.program.cpu,
                "memory": self.program.memory,
            },
            "roles": [{"name": role.name, "replicas": role.replicas, "args": list(role.args)} for role in self.roles],
            "topology": {"type": self.topology.type, "hub": self.topology.hub, "ports": list(self.topology.ports)},
            "inputs": [_input_document(item) for item in self.inputs],
            "result": {
                "from": self.result.sender,
                "recipient": self.result.recipient,
                "maxSize": self.result.max_size,
                "mailbox": self.result.mailbox,
            },
            "payment": {
                "perServer": str(self.payment.per_server),
                "perTransferMiB": str(self.payment.per_transfer_mib),
                "channelDeposit": str(self.payment.channel_deposit),
                "lane": self.payment.lane,
                "asset": to_hex(address_bytes(self.payment.asset)),
            },
            "deadlines": dataclasses.asdict(self.deadlines),
            "quorum": {"role": self.quorum.role, "min": self.quorum.min},
            "onion": {"hops": self.hops, "relays": self.relays, "constantRate": self.constant_rate},
            "sandboxClass": self.sandbox_class,
        }

    def encode(self) -> bytes:
        """The canonical bytes that go on chain."""
        return canonical(self.document())


def _input_document(item: Input) -> dict[str, Any]:
    return {
        "dataset": item.dataset,
        "resource": to_hex(item.resource),
        "node": item.node,
        "owner": to_hex(address_bytes(item.owner)),
        "digest": to_hex(item.digest),
        "size": item.size,
        "to": item.to,
        "path": item.path,
    }
