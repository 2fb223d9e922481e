"""What a relay's owner has to do next so that the directory on chain tells the truth about a relay: one pure function, one step at a time.

A pod that comes back with its identity key is the same node, with a new onion key in the next key epoch. One that comes back with another
is a new node, and the one whose address it has is retired: nobody holds its keys any more. Paper step 0 (registration) for onion routers.
"""

import dataclasses
from collections.abc import Iterable

from veilpod.core.entities import Node, NodeStatus, Role
from veilpod.core.ids import Address, NodeId

HEARTBEAT_SECONDS = 600


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """The relay as it is: what the pod said about its keys, what the cluster said about its address, what the owner wants."""

    identity_key: bytes
    onion_key: bytes
    endpoint: str
    capacity: int  # the bandwidth to claim (directory.claimed_capacity)
    draining: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Retire:
    """Nobody holds this node's keys any more."""

    node: NodeId


@dataclasses.dataclass(frozen=True, slots=True)
class Register:
    """The relay is not in the directory."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rotate:
    """The directory lists an older onion key."""

    node: NodeId
    key_epoch: int


@dataclasses.dataclass(frozen=True, slots=True)
class Move:
    """The relay's address has changed."""

    node: NodeId


@dataclasses.dataclass(frozen=True, slots=True)
class Claim:
    """The owner has changed the relay's bandwidth."""

    node: NodeId


@dataclasses.dataclass(frozen=True, slots=True)
class SetStatus:
    """The directory is to say that the relay serves, or drains."""

    node: NodeId
    status: NodeStatus


@dataclasses.dataclass(frozen=True, slots=True)
class Heartbeat:
    """The last one is old."""

    node: NodeId


Step = Retire | Register | Rotate | Move | Claim | SetStatus | Heartbeat


def own_relays(nodes: Iterable[Node], owner: Address) -> list[Node]:
    """The owner's relays that are not retired."""
    return [node for node in nodes if node.owner == owner and Role.RELAY in node.roles and node.status is not NodeStatus.RETIRED]


def entry_of(nodes: Iterable[Node], running: Running) -> Node | None:
    """The node of the running relay, if it is registered."""
    return next((node for node in nodes if node.identity_key == running.identity_key), None)


def next_step(nodes: Iterable[Node], running: Running, *, now: int) -> Step | None:
    """Say what to do next; None when the directory is true. `nodes` are the owner's (`own_relays`), `now` is the chain's time."""
    mine = list(nodes)
    entry = entry_of(mine, running)
    for node in mine:
        if node.endpoint == running.endpoint and node.identity_key != running.identity_key:
            return Retire(node.id)
    if entry is None:
        return Register()
    if entry.status is NodeStatus.SUSPENDED:
        return None  # the guardian's word: nothing that we say changes it
    if entry.onion_key != running.onion_key:
        return Rotate(entry.id, entry.key_epoch + 1)
    if entry.endpoint != running.endpoint:
        return Move(entry.id)
    if entry.capacity != running.capacity:
        return Claim(entry.id)
    wanted = NodeStatus.DRAINING if running.draining else NodeStatus.ACTIVE
    if entry.status is not wanted:
        return SetStatus(entry.id, wanted)
    if now - entry.updated_at >= HEARTBEAT_SECONDS:
        return Heartbeat(entry.id)
    return None
