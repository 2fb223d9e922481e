"""The directory of relays: what a client must know to use one. The chain is the directory server.

A RelayEntry cannot exist without a valid proof of possession: making one, from a registry node or from JSON, checks it. What a proof does
not say is whether the registry lists the node; who has the chain reads it there, an agent believes its operator. Freshness is judged
where time is known (`fresh`). Paper step 5.
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from veilpod.core.canonical import from_hex, to_hex
from veilpod.core.endpoint import parse_endpoint, spell_endpoint
from veilpod.core.entities import Node, NodeStatus, Role
from veilpod.core.identity import check_proof
from veilpod.core.ids import Address, NodeId
from veilpod.core.keys import parse_address
from veilpod.errors import ProtocolViolation

HEARTBEAT_MAX_AGE = 3600  # seconds; operators send one every ten minutes
MAX_CAPACITY = (1 << 24) - 1  # what the registry can hold
CAPACITY_UNIT = 1024  # bytes a second that a relay claims for each 1 of its capacity


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RelayEntry:
    """One usable relay. `host` is an IP address, `updated_at` the unix second of its last heartbeat.

    `capacity` is the bandwidth that the owner claims, in KiB a second, 0 for no claim. Nobody proves it: who chooses paths caps it.
    """

    node_id: NodeId
    owner: Address
    identity_key: bytes
    onion_key: bytes
    key_epoch: int
    host: str
    port: int
    proof: bytes
    updated_at: int
    registry: Address
    chain_id: int
    capacity: int = 0

    def __post_init__(self) -> None:
        """Refuse an entry whose relay did not prove that it holds its keys. Raises ProtocolViolation("BadNodeProof")."""
        node = Node(
            id=self.node_id,
            owner=self.owner,
            roles=Role.RELAY,
            status=NodeStatus.ACTIVE,
            key_epoch=self.key_epoch,
            updated_at=self.updated_at,
            capacity=0,
            identity_key=self.identity_key,
            onion_key=self.onion_key,
            endpoint="",
            proof=self.proof,
        )
        check_proof(node, registry=self.registry, chain_id=self.chain_id)

    @classmethod
    def from_node(cls, node: Node, *, registry: Address, chain_id: int) -> "RelayEntry":
        """Read an entry of the registry. Raises ProtocolViolation("BadRelayEntry" or "BadNodeProof")."""
        if Role.RELAY not in node.roles:
            raise ProtocolViolation("BadRelayEntry", f"node {node.id} is no relay", party=f"node {node.id}")
        host, port = parse_endpoint(node.endpoint)
        return cls(
            node_id=node.id,
            owner=node.owner,
            identity_key=node.identity_key,
            onion_key=node.onion_key,
            key_epoch=node.key_epoch,
            host=host,
            port=port,
            proof=node.proof,
            updated_at=node.updated_at,
            registry=registry,
            chain_id=chain_id,
            # A computing server's number is sandboxes, not bandwidth.
            capacity=0 if Role.COMPUTE in node.roles else node.capacity,
        )

    def to_json(self) -> dict[str, Any]:
        """Spell it for canonical JSON."""
        return {
            "nodeId": self.node_id,
            "owner": self.owner,
            "identityKey": to_hex(self.identity_key),
            "onionKey": to_hex(self.onion_key),
            "keyEpoch": self.key_epoch,
            "host": self.host,
            "port": self.port,
            "proof": to_hex(self.proof),
            "updatedAt": self.updated_at,
            "registry": self.registry,
            "chainId": self.chain_id,
            "capacity": self.capacity,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "RelayEntry":
        """Read what `to_json` spelt. Raises ProtocolViolation("BadRelayEntry", "BadHex" or "BadNodeProof")."""
        try:
            host, port = parse_endpoint(f"{value['host']}:{value['port']}")
            return cls(
                node_id=NodeId(_natural(value["nodeId"])),
                owner=parse_address(value["owner"]),
                identity_key=from_hex(value["identityKey"], 32),
                onion_key=from_hex(value["onionKey"], 32),
                key_epoch=_natural(value["keyEpoch"]),
                host=host,
                port=port,
                proof=from_hex(value["proof"]),
                updated_at=_natural(value["updatedAt"]),
                registry=parse_address(value["registry"]),
                chain_id=_natural(value["chainId"]),
                capacity=_natural(value["capacity"], MAX_CAPACITY),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ProtocolViolation("BadRelayEntry", "a relay entry of a wrong shape") from error


def claimed_capacity(bandwidth: int) -> int:
    """What a relay that carries at most so many bytes a second registers: KiB a second, rounded down, 1 at least."""
    return min(max(bandwidth // CAPACITY_UNIT, 1), MAX_CAPACITY)


def read_directory(nodes: Iterable[Node], *, registry: Address, chain_id: int) -> tuple[list[RelayEntry], list[NodeId]]:
    """Take the usable relays out of the registry's nodes. Returns (Active relays, ids of Active relays that cannot be used)."""
    usable, refused = [], []
    for node in nodes:
        if Role.RELAY not in node.roles or node.status is not NodeStatus.ACTIVE:
            continue
        try:
            usable.append(RelayEntry.from_node(node, registry=registry, chain_id=chain_id))
        except ProtocolViolation:
            refused.append(node.id)
    return usable, refused


def exit_endpoints(nodes: Iterable[Node]) -> list[str]:
    """Where circuits may leave: the endpoints of Active stores and mailboxes, each in its one spelling; a malformed one is left out."""
    found = set()
    for node in nodes:
        if node.status is NodeStatus.ACTIVE and node.endpoint:
            with contextlib.suppress(ProtocolViolation):
                found.add(spell_endpoint(*parse_endpoint(node.endpoint)))
    return sorted(found)


def fresh(entry: RelayEntry, now: float) -> bool:
    """Whether a relay's heartbeat is recent enough to use it (unix seconds)."""
    return now - entry.updated_at <= HEARTBEAT_MAX_AGE


def _natural(value: Any, most: int | None = None) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0 or (most is not None and value > most):
        raise ValueError("not a natural number of this size")
    return value
