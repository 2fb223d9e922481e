"""A small onion network on loopback: real relays of different owners, and the registry entries that a chain would list."""

import contextlib
import time
from collections.abc import AsyncIterator

from veilpod.core.entities import Node, NodeStatus, Role
from veilpod.core.ids import NodeId
from veilpod.core.keys import checksum_address
from veilpod.core.onion.directory import RelayEntry
from veilpod.relay.router import Relay

REGISTRY = checksum_address(b"\x0e" * 20)
CHAIN_ID = 31337
FIRST_NODE = 100


@contextlib.asynccontextmanager
async def relays(count: int = 4) -> AsyncIterator[list[Node]]:
    """Run relays; their nodes have ids from 100 on."""
    running = [Relay() for _ in range(count)]
    try:
        nodes = [await _node(relay, number) for number, relay in enumerate(running)]
        directory = [entry(node) for node in nodes]
        for relay in running:
            relay.use_directory(directory)
        yield nodes
    finally:
        for relay in running:
            await relay.close()


def entry(node: Node) -> RelayEntry:
    return RelayEntry.from_node(node, registry=REGISTRY, chain_id=CHAIN_ID)


async def _node(relay: Relay, number: int) -> Node:
    port = await relay.listen("127.0.0.1", 0)
    owner = checksum_address(bytes([200 + number]) * 20)
    return Node(
        id=NodeId(FIRST_NODE + number),
        owner=owner,
        roles=Role.RELAY,
        status=NodeStatus.ACTIVE,
        key_epoch=1,
        updated_at=int(time.time()),
        capacity=0,
        identity_key=relay.keys.identity_public,
        onion_key=relay.keys.newest.public,
        endpoint=f"127.0.0.1:{port}",
        proof=relay.keys.prove(owner=owner, key_epoch=1, registry=REGISTRY, chain_id=CHAIN_ID),
    )
