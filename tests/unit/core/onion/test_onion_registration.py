import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from veilpod.core.entities import Node, NodeStatus, Role
from veilpod.core.ids import NodeId
from veilpod.core.keys import checksum_address
from veilpod.core.onion.registration import (
    HEARTBEAT_SECONDS,
    Claim,
    Heartbeat,
    Move,
    Register,
    Retire,
    Rotate,
    Running,
    SetStatus,
    entry_of,
    next_step,
    own_relays,
)

ME, STRANGER = checksum_address(b"\x01" * 20), checksum_address(b"\x02" * 20)
KEYS = [bytes((number,)) * 32 for number in range(4)]
NOW = 1_790_000_000

nodes = st.builds(
    Node,
    id=st.integers(1, 1000).map(NodeId),
    owner=st.sampled_from([ME, STRANGER]),
    roles=st.sampled_from([Role.RELAY, Role.STORAGE, Role.RELAY | Role.STORAGE]),
    status=st.sampled_from([status for status in NodeStatus if status is not NodeStatus.NONE]),
    key_epoch=st.integers(1, 5),
    updated_at=st.integers(NOW - 2000, NOW),
    capacity=st.sampled_from([0, 10, 20]),
    identity_key=st.sampled_from(KEYS),
    onion_key=st.sampled_from(KEYS),
    endpoint=st.sampled_from(["10.0.0.1:9001", "10.0.0.2:9001"]),
    proof=st.just(b""),
)
runnings = st.builds(
    Running,
    identity_key=st.sampled_from(KEYS),
    onion_key=st.sampled_from(KEYS),
    endpoint=st.just("10.0.0.1:9001"),
    capacity=st.sampled_from([10, 20]),
    draining=st.booleans(),
)


class Chain:
    """A registry that does as it is told."""

    def __init__(self, start: list[Node]) -> None:
        self.nodes = {node.id: node for node in start}

    def change(self, node: NodeId, **changes):
        assert self.nodes[node].owner == ME
        self.nodes[node] = dataclasses.replace(self.nodes[node], updated_at=NOW, **changes)

    def do(self, step, running: Running) -> None:
        match step:
            case Retire(node):
                self.change(node, status=NodeStatus.RETIRED)
            case Register():
                number = NodeId(max(self.nodes, default=0) + 1)
                self.nodes[number] = Node(
                    id=number, owner=ME, roles=Role.RELAY, status=NodeStatus.ACTIVE, key_epoch=1, updated_at=NOW, capacity=running.capacity,
                    identity_key=running.identity_key, onion_key=running.onion_key, endpoint=running.endpoint, proof=b"",
                )  # fmt: skip
            case Rotate(node, key_epoch):
                assert key_epoch == self.nodes[node].key_epoch + 1
                self.change(node, onion_key=running.onion_key, key_epoch=key_epoch)
            case Move(node):
                self.change(node, endpoint=running.endpoint)
            case Claim(node):
                self.change(node, capacity=running.capacity)
            case SetStatus(node, status):
                self.change(node, status=status)
            case Heartbeat(node):
                self.change(node)


@given(st.lists(nodes, unique_by=lambda node: node.id, max_size=6), runnings)
def test_from_any_registry_the_steps_lead_to_the_truth_and_stop(start, running):
    chain = Chain(start)
    for _ in range(20):
        step = next_step(own_relays(chain.nodes.values(), ME), running, now=NOW)
        if step is None:
            break
        chain.do(step, running)
    assert step is None
    mine = own_relays(chain.nodes.values(), ME)
    entry = entry_of(mine, running)
    assert entry is not None
    if entry.status is not NodeStatus.SUSPENDED:
        assert (entry.onion_key, entry.endpoint, entry.capacity) == (running.onion_key, running.endpoint, running.capacity)
        assert entry.status is (NodeStatus.DRAINING if running.draining else NodeStatus.ACTIVE)
        assert NOW - entry.updated_at < HEARTBEAT_SECONDS
    assert [node for node in mine if node.endpoint == running.endpoint and node.identity_key != running.identity_key] == []
    assert [node for node in chain.nodes.values() if node.owner == STRANGER] == [node for node in start if node.owner == STRANGER]
