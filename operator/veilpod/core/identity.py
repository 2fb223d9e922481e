"""Proof of possession of a node's keys: why nobody can list a stranger's onion key as its own.

The identity key (Ed25519, constant for a node) signs (owner, onion key, key epoch, registry, chain id); the registry puts the
signature into the NodeKey event and every reader checks it here, off chain, before it speaks to the node. Nothing is read from a
chain here. Paper: onion routers' registration.
"""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed25519

from veilpod.core.canonical import keccak256
from veilpod.core.entities import Node
from veilpod.core.ids import Address
from veilpod.errors import ProtocolViolation

_TAG = b"veilpod.node.v1"


def proof_digest(*, owner: Address, onion_key: bytes, key_epoch: int, registry: Address, chain_id: int) -> bytes:
    """keccak256(abi.encode("veilpod.node.v1", owner, onionKey, keyEpoch, registry, chainid)). 32 bytes."""
    # The string is the one dynamic value: its place is behind the six head words.
    head = (_word(6 * 32), _address(owner), onion_key, _word(key_epoch), _address(registry), _word(chain_id))
    return keccak256(b"".join(head) + _word(len(_TAG)) + _TAG.ljust(32, b"\0"))


def make_proof(
    identity: ed25519.Ed25519PrivateKey, *, owner: Address, onion_key: bytes, key_epoch: int, registry: Address, chain_id: int
) -> bytes:
    """Prove possession for `register` (key_epoch 1) or `rotateKey` (the next epoch). 64 bytes."""
    return identity.sign(proof_digest(owner=owner, onion_key=onion_key, key_epoch=key_epoch, registry=registry, chain_id=chain_id))


def check_proof(node: Node, *, registry: Address, chain_id: int) -> None:
    """Check a registry entry before its onion key is used. Raises ProtocolViolation("BadNodeProof")."""
    digest = proof_digest(owner=node.owner, onion_key=node.onion_key, key_epoch=node.key_epoch, registry=registry, chain_id=chain_id)
    try:
        ed25519.Ed25519PublicKey.from_public_bytes(node.identity_key).verify(node.proof, digest)
    except (InvalidSignature, ValueError) as error:
        raise ProtocolViolation(
            "BadNodeProof", f"node {node.id} does not prove that it holds its onion key", party=f"node {node.id}"
        ) from error


def _word(value: int) -> bytes:
    return value.to_bytes(32, "big")


def _address(value: Address) -> bytes:
    return bytes.fromhex(value.removeprefix("0x")).rjust(32, b"\0")
