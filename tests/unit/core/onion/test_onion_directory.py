import dataclasses
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.onion import CHAIN_ID, REGISTRY, entry, owner

from veilpod.core.canonical import canonical, parse_canonical
from veilpod.core.entities import Node, NodeStatus, Role
from veilpod.core.ids import NodeId
from veilpod.core.onion.directory import (
    HEARTBEAT_MAX_AGE,
    MAX_CAPACITY,
    RelayEntry,
    claimed_capacity,
    exit_endpoints,
    fresh,
    parse_endpoint,
    read_directory,
    spell_endpoint,
)
from veilpod.errors import ProtocolViolation

UNPROVEN = {"nodeId", "host", "port", "updatedAt", "capacity"}


def node(of: RelayEntry, **changes):
    fields = {
        "id": of.node_id, "owner": of.owner, "roles": Role.RELAY, "status": NodeStatus.ACTIVE, "key_epoch": of.key_epoch,
        "updated_at": of.updated_at, "capacity": of.capacity, "identity_key": of.identity_key, "onion_key": of.onion_key,
        "endpoint": f"{of.host}:{of.port}", "proof": of.proof,
    }  # fmt: skip
    return Node(**fields | changes)


def test_an_entry_survives_the_chain_and_canonical_json():
    one = entry(3, capacity=250)
    assert RelayEntry.from_node(node(one), registry=REGISTRY, chain_id=CHAIN_ID) == one
    assert RelayEntry.from_json(parse_canonical(canonical(one.to_json()))) == one


@pytest.mark.parametrize(
    "change",
    [
        {"owner": owner(9)},
        {"onion_key": os.urandom(32)},
        {"key_epoch": 2},
        {"registry": owner(8)},
        {"chain_id": 1},
        {"identity_key": os.urandom(32)},
        {"proof": bytes(64)},
        {"proof": b""},
    ],
)
def test_an_entry_without_a_valid_proof_cannot_exist(change):
    with pytest.raises(ProtocolViolation) as caught:
        dataclasses.replace(entry(3), **change)
    assert caught.value.reason == "BadNodeProof"


def test_only_active_relays_with_proofs_are_read_and_the_others_are_named():
    one, two, three, four = (entry(number) for number in (1, 2, 3, 4))
    nodes = [
        node(one),
        node(two, proof=bytes(64)),
        node(three, status=NodeStatus.DRAINING),
        node(four, roles=Role.STORAGE),
        node(four, id=NodeId(5), endpoint="relay.example:9001"),
    ]
    assert read_directory(nodes, registry=REGISTRY, chain_id=CHAIN_ID) == ([one], [2, 5])


@given(
    st.dictionaries(
        st.sampled_from(sorted(entry(1).to_json())), st.none() | st.integers() | st.text(max_size=9) | st.lists(st.none()), min_size=1
    )
)
def test_rubbish_in_any_field_is_a_violation(rubbish):
    good = entry(1).to_json()
    try:
        read = RelayEntry.from_json(good | rubbish)
    except ProtocolViolation:
        return
    assert {name: value for name, value in read.to_json().items() if good[name] != value}.keys() <= UNPROVEN


@pytest.mark.parametrize("claim", [-1, 1 << 24, True, 1.5, "9", None])
def test_a_claim_that_the_registry_could_not_hold_is_a_violation(claim):
    with pytest.raises(ProtocolViolation):
        RelayEntry.from_json(entry(1).to_json() | {"capacity": claim})


@pytest.mark.parametrize(
    ("bandwidth", "capacity"),
    [(1, 1), (1024, 1), (2047, 1), (2048, 2), (10 << 20, 10_240), ((16 << 30) - 1, MAX_CAPACITY), (100 << 30, MAX_CAPACITY)],
)
def test_a_relay_claims_its_bandwidth_in_whole_kib_a_second(bandwidth, capacity):
    assert claimed_capacity(bandwidth) == capacity


def test_a_computing_servers_number_of_sandboxes_is_no_bandwidth():
    both = node(entry(1), roles=Role.RELAY | Role.COMPUTE, capacity=400)
    assert RelayEntry.from_node(both, registry=REGISTRY, chain_id=CHAIN_ID).capacity == 0


def test_a_missing_field_is_a_violation():
    for name in entry(1).to_json():
        value = entry(1).to_json()
        del value[name]
        with pytest.raises(ProtocolViolation):
            RelayEntry.from_json(value)


@pytest.mark.parametrize(
    "endpoint", ["relay.example:9001", "10.0.0.1", "10.0.0.1:0", "10.0.0.1:65536", ":1", "", "10.0.0.1:x", "10.0.0.256:1"]
)
def test_only_addresses_are_endpoints(endpoint):
    with pytest.raises(ProtocolViolation):
        parse_endpoint(endpoint)


def test_an_endpoint_has_one_spelling():
    assert spell_endpoint("10.0.0.1", 80) == "10.0.0.1:80"
    assert spell_endpoint("2001:DB8:0::1", 80) == spell_endpoint("[2001:db8::1]", 80) == "[2001:db8::1]:80"
    assert parse_endpoint("[2001:db8::1]:80") == ("2001:db8::1", 80)


def test_a_heartbeat_of_an_hour_ago_is_old():
    one = entry(1, updated_at=1000)
    assert fresh(one, 1000 + HEARTBEAT_MAX_AGE)
    assert not fresh(one, 1001 + HEARTBEAT_MAX_AGE)


def test_circuits_leave_only_to_active_services_with_an_address():
    one = entry(1)
    nodes = [
        node(one, endpoint="10.0.0.2:9101"),
        node(one, endpoint="10.0.0.1:9101"),
        node(one, endpoint="10.0.0.1:9101"),
        node(one, endpoint="10.0.0.3:9101", status=NodeStatus.RETIRED),
        node(one, endpoint=""),
        node(one, endpoint="store.example:9101"),
    ]
    assert exit_endpoints(nodes) == ["10.0.0.1:9101", "10.0.0.2:9101"]
