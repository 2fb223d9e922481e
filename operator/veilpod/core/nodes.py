"""A node's proof of possession: the identity key signs what the registry lists, so nobody can list another's key as their own.

The registry stores the proof in an event and checks nothing; who uses a node's onion key checks it here
(contracts/src/interfaces/INodeRegistry.sol).
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
    words = [
        (6 * 32).to_bytes(32, "big"),
        _word(owner),
        onion_key,
        key_epoch.to_bytes(32, "big"),
        _word(registry),
        chain_id.to_bytes(32, "big"),
    ]
    return keccak256(b"".join(words) + len(_TAG).to_bytes(32, "big") + _TAG.ljust(32, b"\0"))


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


def _word(address: Address) -> bytes:
    return bytes.fromhex(address[2:]).rjust(32, b"\0")
