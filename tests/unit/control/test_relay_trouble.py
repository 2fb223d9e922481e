"""What an operator sees of the directory before anything is requested or made."""

import dataclasses
import types
from typing import Any, cast

from tests.support.onion import CHAIN_ID, REGISTRY, entry
from tests.unit.core.task.world import a_spec

from veilpod.control.context import Context
from veilpod.control.directory import relay_trouble
from veilpod.core.entities import Node, NodeStatus, Role

NOW = 1_000_000


def node(number: int, **changes: Any) -> Node:
    of = entry(number)
    fields: dict[str, Any] = {
        "id": of.node_id, "owner": of.owner, "roles": Role.RELAY, "status": NodeStatus.ACTIVE, "key_epoch": 1, "updated_at": NOW,
        "capacity": 0, "identity_key": of.identity_key, "onion_key": of.onion_key, "endpoint": f"{of.host}:9001", "proof": of.proof,
    }  # fmt: skip
    return Node(**fields | changes)


def context(*nodes: Node) -> Context:
    async def directory(roles: Role) -> tuple[Node, ...]:
        return nodes

    chain = types.SimpleNamespace(registry=REGISTRY, chain_id=CHAIN_ID)
    fake = types.SimpleNamespace(reader=types.SimpleNamespace(directory=directory), config=types.SimpleNamespace(chain=chain))
    return cast(Context, fake)


async def test_relays_count_that_are_active_fresh_and_hold_their_keys() -> None:
    good = [node(1), node(2), node(3)]
    spec = dataclasses.replace(a_spec(), hops=3, relays="Any")
    assert await relay_trouble(context(*good), spec, NOW) is None
    for bad in (node(3, status=NodeStatus.DRAINING), node(3, updated_at=NOW - 3601), node(3, proof=bytes(64))):
        found = await relay_trouble(context(*good[:2], bad), spec, NOW)
        assert found is not None
        assert found.reason == "TooFewRelays"
        assert "10." not in found.message  # no place


async def test_fewer_hops_are_a_persons_choice_within_a_cluster() -> None:
    spec = dataclasses.replace(a_spec(), hops=1, relays="InCluster")
    assert await relay_trouble(context(node(1)), spec, NOW) is None
