"""Proof of possession of a node's keys: why nobody can list a stranger's onion key as its own.

The identity key (Ed25519, constant for a node) signs (owner, onion key, key epoch, registry, chain id); the registry puts the signature into the NodeKey event
and every reader checks it here, off chain, before it speaks to the node. Nothing is read from a chain here. Paper: onion routers' registration.
"""

import dataclasses

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed25519

from veilpod.core.canonical import keccak256
from veilpod.core.entities import Node
from veilpod.core.ids import Address

PROOF_BYTES = 64
_TAG = b"veilpod.node.v1"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """Which registry a proof is for."""

    chain_id: int
    contract: Address


def make_proof(identity: ed25519.Ed25519PrivateKey, *, owner: Address, onion_key: bytes, key_epoch: int, registry: Registry) -> bytes:
    """Prove that who registers an onion key (32 bytes) holds the identity key. The first key epoch is 1. 64 bytes."""
    return identity.sign(_digest(owner=owner, onion_key=onion_key, key_epoch=key_epoch, registry=registry))


def verify_proof(node: Node, registry: Registry) -> bool:
    """Check a registry entry's newest proof. False means: do not speak to this node."""
    if len(node.proof) != PROOF_BYTES:
        return False
    digest = _digest(owner=node.owner, onion_key=node.onion_key, key_epoch=node.key_epoch, registry=registry)
    try:
        ed25519.Ed25519PublicKey.from_public_bytes(node.identity_key).verify(node.proof, digest)
    except (InvalidSignature, ValueError):
        return False
    return True


def _digest(*, owner: Address, onion_key: bytes, key_epoch: int, registry: Registry) -> bytes:
    # abi.encode("veilpod.node.v1", owner, onionKey, keyEpoch, registry, chainid): the string goes behind the six head words.
    head = (_word(6 * 32), _address(owner), onion_key, _word(key_epoch), _address(registry.contract), _word(registry.chain_id))
    tail = (_word(len(_TAG)), _TAG.ljust(32, b"\0"))
    return keccak256(b"".join(head + tail))


def _word(value: int) -> bytes:
    return value.to_bytes(32, "big")


def _address(value: Address) -> bytes:
    return bytes.fromhex(value.removeprefix("0x")).rjust(32, b"\0")
