"""A release's entry in NodeRegistry: made once, kept true, kept fresh. One entry per role, all with keys derived from the chain key.

Paper step 0 (node registration). Relays are not here: their keys are their own.
"""

import asyncio
import logging

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from veilpod.control.context import Context
from veilpod.core.entities import Node, NodeStatus, Role
from veilpod.core.identity import make_proof
from veilpod.core.ids import NodeId
from veilpod.errors import Transient

log = logging.getLogger(__name__)
HEARTBEAT_SECONDS = 600
LOOK_SECONDS = 20  # a chain that stood still goes on with another time: everybody's heartbeat is old then, and nobody is chosen
ALONE_SECONDS = 2 * HEARTBEAT_SECONDS


async def ensure_node(context: Context, *, role: Role, endpoint: str = "", capacity: int = 0) -> NodeId:
    """Find this release's node for a role, mend what differs, or register it. Raises Transient until the chain is sure."""
    onion_key = context.node_keys.seal.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    node = await own_node(context, role)
    if node is None:
        created = await context.writer.register(
            roles=role,
            capacity=capacity,
            identity_key=_identity(context),
            onion_key=onion_key,
            endpoint=endpoint,
            proof=_proof(context, onion_key, 1),
        )
        log.info("node.registered", extra={"role": role.name})
        return created
    if node.onion_key != onion_key:
        await context.writer.rotate_key(node.id, onion_key=onion_key, proof=_proof(context, onion_key, node.key_epoch + 1))
        log.info("node.key_rotated", extra={"role": role.name})
    if node.endpoint != endpoint:
        await context.writer.set_endpoint(node.id, endpoint)
        log.info("node.endpoint_changed", extra={"role": role.name})
    if node.capacity != capacity:
        await context.writer.set_capacity(node.id, capacity)
        log.info("node.capacity_changed", extra={"role": role.name})
    if node.status in (NodeStatus.OFFLINE, NodeStatus.DRAINING):
        await context.writer.set_status(node.id, NodeStatus.ACTIVE)
        log.info("node.active", extra={"role": role.name})
    if node.status is NodeStatus.SUSPENDED:
        log.error("node.suspended", extra={"role": role.name})
    return node.id


async def ensure_alone(context: Context) -> None:
    """Make sure that nobody else is this release: a second operator with one key would sign other channel states with the same numbers.

    A lock keeps a second one off the same state directory. On another machine it finds a node of this key that acted lately, in a
    transaction that its own state directory did not send. Raises Transient until that sign of life is old: who lost the directory waits.
    """
    nodes = await context.reader.directory(Role.ANY)
    mine = [node.updated_at for node in nodes if node.owner == context.writer.address and node.status is not NodeStatus.RETIRED]
    seen, acted = max(mine, default=0), await context.writer.acted_at()
    age = await context.reader.now() - seen
    if seen > acted and age < ALONE_SECONDS:
        raise Transient(
            f"KeyInUse: a node of {context.writer.address} acted {age} s ago, and not from this state directory: another operator runs "
            "with this chain key. Stop this one, or stop the other and bring its state directory here. This one goes on when the other "
            f"was silent for {ALONE_SECONDS} s",
            retry_after=10,
        )


async def own_node(context: Context, role: Role) -> Node | None:
    """The newest node of ours with this role that is not retired."""
    mine = [
        node
        for node in await context.reader.directory(role)
        if node.owner == context.writer.address
        and role in node.roles
        and node.identity_key == _identity(context)
        and node.status is not NodeStatus.RETIRED
    ]
    return max(mine, key=lambda node: node.id, default=None)


async def keep_alive(context: Context, node: NodeId) -> None:
    """Send heartbeats for ever. Give it to `context.tasks`."""
    while True:
        age = await context.reader.now() - (await context.reader.node(node)).updated_at
        if age >= HEARTBEAT_SECONDS:
            await context.writer.heartbeat(node)
        await asyncio.sleep(LOOK_SECONDS)


def _identity(context: Context) -> bytes:
    return context.node_keys.identity.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def _proof(context: Context, onion_key: bytes, key_epoch: int) -> bytes:
    return make_proof(
        context.node_keys.identity,
        owner=context.writer.address,
        onion_key=onion_key,
        key_epoch=key_epoch,
        registry=context.config.chain.registry,
        chain_id=context.config.chain.chain_id,
    )
