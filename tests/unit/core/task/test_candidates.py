"""Who is engaged."""

import dataclasses

from veilpod.core.entities import Node, NodeStatus, Role
from veilpod.core.ids import NodeId, TaskId
from veilpod.core.keys import checksum_address
from veilpod.core.task.candidates import choose, stake_for

TASK, NOW = TaskId(b"\x01" * 32), 1_000_000


def node(number: int, *, owner: int | None = None, **changes: object) -> Node:
    made = Node(
        id=NodeId(number),
        owner=checksum_address(bytes([owner or number]) * 20),
        roles=Role.COMPUTE,
        status=NodeStatus.ACTIVE,
        key_epoch=1,
        updated_at=NOW,
        capacity=1,
        identity_key=b"",
        onion_key=b"",
        endpoint="",
        proof=b"",
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def chosen(nodes, count=2, *, stake=0, free=None, attempt=0):
    return choose(nodes, task=TASK, count=count, stake=stake, free=free or {}, now=NOW, attempt=attempt)


def test_only_active_fresh_nodes_with_room_serve() -> None:
    bad = [node(3, status=NodeStatus.DRAINING), node(4, updated_at=NOW - 3601), node(5, capacity=0), node(6, roles=Role.RELAY)]
    assert set(chosen([node(1), node(2), *bad])) == {1, 2}
    assert chosen([node(1), *bad]) is None


def test_one_owner_serves_once() -> None:
    assert chosen([node(1, owner=9), node(2, owner=9)]) is None


def test_stake_is_needed_and_never_asked_beyond_what_servers_have() -> None:
    nodes = [node(1), node(2), node(3)]
    free = {nodes[0].owner: 5, nodes[1].owner: 9}
    assert set(chosen(nodes, stake=5, free=free)) == {1, 2}
    assert chosen(nodes, stake=6, free=free) is None
    assert stake_for(nodes, count=2, wanted=100, free=free, now=NOW) == 5
    assert stake_for(nodes, count=2, wanted=3, free=free, now=NOW) == 3
    assert stake_for(nodes, count=3, wanted=3, free=free, now=NOW) == 0


def test_another_attempt_is_another_order() -> None:
    nodes = [node(number) for number in range(1, 30)]
    assert len({chosen(nodes, attempt=attempt) for attempt in range(10)}) > 5
    assert chosen(nodes) == chosen(list(reversed(nodes)))
