"""A release's entry in the registry follows its configuration."""

import types

from tests.support.onion import CHAIN_ID, REGISTRY
from tests.support.worlds import MemoryChain

from veilpod.control.nodes import ensure_node
from veilpod.core.entities import NodeStatus, Role
from veilpod.core.keys import SigningKey, node_keys

KEY = SigningKey(secret=b"\x41" * 32)


class Chain(MemoryChain):
    """It notes what is said, in order."""

    def __init__(self) -> None:
        super().__init__(KEY.address)
        self.said: list[object] = []

    async def set_capacity(self, node, capacity):
        self.said.append(capacity)
        await super().set_capacity(node, capacity)

    async def set_status(self, node, status):
        self.said.append(status)
        await super().set_status(node, status)


def release(chain: Chain):
    config = types.SimpleNamespace(chain=types.SimpleNamespace(registry=REGISTRY, chain_id=CHAIN_ID))
    return types.SimpleNamespace(reader=chain, writer=chain, node_keys=node_keys(KEY), config=config)


async def test_a_server_that_is_configured_for_fewer_sandboxes_says_so_before_it_takes_any():
    chain = Chain()
    node = await ensure_node(release(chain), role=Role.COMPUTE, capacity=4)
    await chain.set_status(node, NodeStatus.DRAINING)
    chain.said.clear()
    assert await ensure_node(release(chain), role=Role.COMPUTE, capacity=2) == node
    assert chain.said == [2, NodeStatus.ACTIVE]
    assert chain.nodes[node].capacity == 2


async def test_what_is_registered_as_configured_is_left_alone():
    chain = Chain()
    for _ in range(2):
        await ensure_node(release(chain), role=Role.COMPUTE, capacity=4)
    assert chain.said == []
