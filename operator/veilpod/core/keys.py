"""Keys: secp256k1 for what the chain can check, Ed25519 and X25519 for nodes, all derived from one chain key.

Signatures are recoverable secp256k1, 65 bytes r || s || v with v 27/28 and low s (libsecp256k1 makes no other).
"""

import dataclasses
import functools

import coincurve
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from veilpod.core.canonical import from_hex, keccak256
from veilpod.core.ids import Address
from veilpod.core.sealing import HybridPrivateKey
from veilpod.errors import InvalidInput, ProtocolViolation

SIGNATURE_BYTES = 65


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SigningKey:
    """A secp256k1 private key. Never printed, never serialised except by who loads it."""

    secret: bytes
    _private: coincurve.PrivateKey = dataclasses.field(init=False, compare=False)  # made once: making it costs more than signing

    def __post_init__(self) -> None:
        object.__setattr__(self, "_private", coincurve.PrivateKey(self.secret))

    @property
    def address(self) -> Address:
        """The key's EVM address."""
        return _address(self._private.public_key.format(compressed=False))

    def sign(self, digest: bytes) -> bytes:
        """Sign a 32-byte digest. 65 bytes r || s || v."""
        signature = self._private.sign_recoverable(digest, hasher=None)
        return signature[:64] + _V[signature[64]]


def signing_key(text: str) -> SigningKey:
    """Read a private key in hex, with or without 0x. Raises InvalidInput("InvalidKey")."""
    try:
        secret = bytes.fromhex(text.strip().removeprefix("0x"))
        coincurve.PrivateKey(secret)
        if len(secret) != 32:
            raise ValueError("size")
    except ValueError as error:
        raise InvalidInput("InvalidKey", "a chain key is 32 bytes in hex; make one with `veilpod keys new chain`") from error
    return SigningKey(secret=secret)


def recover(digest: bytes, signature: bytes) -> Address:
    """Recover who signed a 32-byte digest. Raises ProtocolViolation("BadSignature") for malformed or high-s signatures."""
    if len(signature) != SIGNATURE_BYTES or signature[64] not in (27, 28) or signature[32:64] > _HALF_ORDER:
        raise ProtocolViolation("BadSignature", "a signature is 65 bytes r, s, v with v 27 or 28 and a low s")
    try:
        public = coincurve.PublicKey.from_signature_and_message(signature[:64] + bytes([signature[64] - 27]), digest, hasher=None)
    except Exception as error:  # coincurve raises bare Exception for a point that is not on the curve
        raise ProtocolViolation("BadSignature", "no key can have made this signature") from error
    return _address(public.format(compressed=False))


def parse_address(text: str) -> Address:
    """Read an account, 0x and 40 hex digits in any case, into EIP-55 spelling. Raises ProtocolViolation("BadAddress")."""
    try:
        return checksum_address(from_hex(text.lower(), 20))
    except (ProtocolViolation, AttributeError) as error:
        raise ProtocolViolation("BadAddress", f"an account is 0x and 40 hex digits, not {str(text)[:50]!r}") from error


def checksum_address(raw: bytes) -> Address:
    """Spell 20 bytes as an EIP-55 address."""
    plain = raw.hex()
    mask = keccak256(plain.encode()).hex()
    return Address("0x" + "".join(c.upper() if int(m, 16) >= 8 else c for c, m in zip(plain, mask, strict=False)))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class NodeKeys:
    """What a computing server, store or mailbox holds beside its chain key; derived, so that one secret is all there is to keep."""

    identity: ed25519.Ed25519PrivateKey
    seal: x25519.X25519PrivateKey
    control: ed25519.Ed25519PrivateKey


def node_keys(chain_key: SigningKey) -> NodeKeys:
    """Derive a node's keys from its operator's chain key (HKDF-SHA256, RFC 5869)."""
    return NodeKeys(
        identity=ed25519.Ed25519PrivateKey.from_private_bytes(_derive(chain_key, "veilpod/node/identity/v1")),
        seal=x25519.X25519PrivateKey.from_private_bytes(_derive(chain_key, "veilpod/node/seal/v1")),
        control=ed25519.Ed25519PrivateKey.from_private_bytes(_derive(chain_key, "veilpod/control/v1")),
    )


def custody_key(chain_key: SigningKey) -> HybridPrivateKey:
    """Derive the key that data keys are sealed to when their custodian is the holder of this chain key."""
    return HybridPrivateKey.from_bytes(_derive(chain_key, "veilpod/custody/v1", length=96))


def _derive(chain_key: SigningKey, info: str, *, length: int = 32) -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=b"", info=info.encode()).derive(chain_key.secret)


@functools.lru_cache(maxsize=1024)  # a channel's peer signs again and again, and spelling its address costs half a signature
def _address(public: bytes) -> Address:
    return checksum_address(keccak256(public[1:])[-20:])


_V = (b"\x1b", b"\x1c")
_HALF_ORDER = bytes.fromhex("7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0")
