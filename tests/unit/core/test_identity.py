import dataclasses

import eth_abi
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given
from hypothesis import strategies as st

from veilpod.core import identity
from veilpod.core.canonical import keccak256
from veilpod.core.entities import Node, NodeStatus, Role
from veilpod.core.ids import NodeId
from veilpod.core.keys import checksum_address
from veilpod.errors import ProtocolViolation

addresses = st.binary(min_size=20, max_size=20).map(checksum_address)
REGISTRY = {"registry": checksum_address(b"\x11" * 20), "chain_id": 31337}


def node(key, *, owner, onion_key, key_epoch, proof):
    return Node(
        id=NodeId(1), owner=owner, roles=Role.RELAY, status=NodeStatus.ACTIVE, key_epoch=key_epoch, updated_at=0, capacity=0,
        identity_key=key.public_key().public_bytes_raw(), onion_key=onion_key, endpoint="127.0.0.1:1", proof=proof,
    )  # fmt: skip


@given(st.binary(min_size=32, max_size=32), addresses, st.binary(min_size=32, max_size=32), st.integers(1, 2**16 - 1))
def test_the_signed_bytes_are_solidity_abi_encoding(seed, owner, onion_key, key_epoch):
    key = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    proof = identity.make_proof(key, owner=owner, onion_key=onion_key, key_epoch=key_epoch, **REGISTRY)
    encoded = eth_abi.encode(
        ["string", "address", "bytes32", "uint32", "address", "uint256"],
        ["veilpod.node.v1", owner, onion_key, key_epoch, REGISTRY["registry"], REGISTRY["chain_id"]],
    )
    key.public_key().verify(proof, keccak256(encoded))
    identity.check_proof(node(key, owner=owner, onion_key=onion_key, key_epoch=key_epoch, proof=proof), **REGISTRY)


@pytest.fixture
def honest():
    key = ed25519.Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
    owner, onion_key = checksum_address(b"\x22" * 20), b"\x33" * 32
    proof = identity.make_proof(key, owner=owner, onion_key=onion_key, key_epoch=3, **REGISTRY)
    return node(key, owner=owner, onion_key=onion_key, key_epoch=3, proof=proof)


@pytest.mark.parametrize(
    "change",
    [
        {"owner": checksum_address(b"\x23" * 20)},
        {"onion_key": b"\x34" * 32},
        {"key_epoch": 4},
        {"identity_key": b"\x35" * 32},
        {"proof": b""},
        {"proof": bytes(64)},
    ],
)
def test_a_proof_is_good_for_nothing_but_what_was_signed(honest, change):
    identity.check_proof(honest, **REGISTRY)
    with pytest.raises(ProtocolViolation) as caught:
        identity.check_proof(dataclasses.replace(honest, **change), **REGISTRY)
    assert caught.value.reason == "BadNodeProof"


@pytest.mark.parametrize("elsewhere", [{"chain_id": 1}, {"registry": checksum_address(b"\x12" * 20)}])
def test_a_proof_is_good_for_one_registry_on_one_chain(honest, elsewhere):
    with pytest.raises(ProtocolViolation):
        identity.check_proof(honest, **REGISTRY | elsewhere)
