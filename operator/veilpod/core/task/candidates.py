"""Which computing servers to engage: chosen off chain by the requester, verified on chain by `assign`. Pure. Paper step 2.

Active nodes of distinct owners with a fresh heartbeat, room and stake. Among those the order is pseudo-random per task, so that load
spreads without anybody coordinating; `attempt` turns the order when the contract refused the last choice (a race for room).
"""

from collections.abc import Iterable, Mapping, Sequence

from veilpod.core.canonical import keccak256
from veilpod.core.entities import Node, NodeStatus, Role
from veilpod.core.ids import Address, NodeId, TaskId

HEARTBEAT_MAX_AGE = 3600  # seconds; operators send one every ten minutes


def eligible(nodes: Iterable[Node], *, now: int) -> tuple[Node, ...]:
    """Computing nodes that say they would serve. `now`: the chain's time."""
    return tuple(
        node
        for node in nodes
        if Role.COMPUTE in node.roles
        and node.status is NodeStatus.ACTIVE
        and node.capacity > 0
        and now - node.updated_at <= HEARTBEAT_MAX_AGE
    )


def choose(
    nodes: Iterable[Node], *, task: TaskId, count: int, stake: int, free: Mapping[Address, int], now: int, attempt: int = 0
) -> tuple[NodeId, ...] | None:
    """Choose `count` nodes, or None when too few qualify. `free`: unlocked stake by owner, wei."""
    by_owner: dict[Address, Node] = {}
    for node in sorted(
        eligible(nodes, now=now), key=lambda node: keccak256(task + attempt.to_bytes(4, "big") + node.id.to_bytes(4, "big"))
    ):
        if free.get(node.owner, 0) >= stake:
            by_owner.setdefault(node.owner, node)
    chosen = list(by_owner.values())[:count]
    return tuple(node.id for node in chosen) if len(chosen) == count else None


def stake_for(nodes: Sequence[Node], *, count: int, wanted: int, free: Mapping[Address, int], now: int) -> int:
    """The stake to ask of each server: what it is paid, or less when too few could lock that much. Wei."""
    owners = {node.owner for node in eligible(nodes, now=now)}
    most = sorted((free.get(owner, 0) for owner in owners), reverse=True)[:count]
    return min(wanted, most[-1]) if len(most) == count else wanted
