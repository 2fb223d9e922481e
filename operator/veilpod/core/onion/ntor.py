"""The ntor handshake (Goldberg, Stebila, Ustaoglu 2013; Tor proposal 216).

One ephemeral of the client, one of the relay, one static of the relay. The client knows the relay's identity and onion key, the relay
learns nothing about the client. Keys come from both the ephemeral and the static Diffie-Hellman, so they are forward secret and only the
holder of the onion key gets them. Used for every hop and, with the service key of a descriptor, end to end at a rendezvous. The
transcript also holds eight bytes of context (version, handshake, class, position, key epoch): changing one of them breaks the handshake.
Paper step 5.

No randomness here: ephemerals are arguments.
"""

import dataclasses
import hmac

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from veilpod.errors import ProtocolViolation

PROTOID = b"veilpod-ntor-x25519-sha256-1"
SEED = 32
ONIONSKIN = 96  # identity key || onion key || X
REPLY = 64  # Y || AUTH


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Whom a client wants to talk to: 32 bytes of identity, 32 bytes of X25519 onion key, and the context bytes."""

    identity_key: bytes
    onion_key: bytes
    context: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Onionskin:
    """A client's first message, parsed."""

    identity_key: bytes
    onion_key: bytes
    ephemeral: bytes


def onionskin(target: Target, ephemeral: X25519PrivateKey) -> bytes:
    """Make the client's message. 96 bytes."""
    return target.identity_key + target.onion_key + public_bytes(ephemeral)


def parse_onionskin(data: bytes) -> Onionskin:
    """Read a client's message. Raises ProtocolViolation("BadHandshake")."""
    if len(data) != ONIONSKIN:
        raise ProtocolViolation("BadHandshake", f"an onionskin is {ONIONSKIN} bytes")
    return Onionskin(identity_key=data[:32], onion_key=data[32:64], ephemeral=data[64:])


def respond(target: Target, *, static: X25519PrivateKey, client: bytes, ephemeral: X25519PrivateKey) -> tuple[bytes, bytes]:
    """Answer as the relay. Returns (reply of 64 bytes, key seed). Raises ProtocolViolation("BadHandshake") for a low-order point."""
    public = public_bytes(ephemeral)
    shared = _exchange(ephemeral, client) + _exchange(static, client)
    seed, auth = _derive(shared, target, client=client, server=public)
    return public + auth, seed


def finish(target: Target, reply: bytes, *, ephemeral: X25519PrivateKey) -> bytes:
    """Check the relay's answer as the client and return the key seed. Raises ProtocolViolation("BadHandshake")."""
    if len(reply) != REPLY:
        raise ProtocolViolation("BadHandshake", f"an answer is {REPLY} bytes")
    server, auth = reply[:32], reply[32:]
    shared = _exchange(ephemeral, server) + _exchange(ephemeral, target.onion_key)
    seed, expected = _derive(shared, target, client=public_bytes(ephemeral), server=server)
    if not hmac.compare_digest(auth, expected):
        raise ProtocolViolation("BadHandshake", "the answer does not come from the holder of the onion key")
    return seed


def expand(seed: bytes, label: str, size: int) -> bytes:
    """Derive key material from a seed or secret: HKDF-Expand-SHA256 (RFC 5869) with an ASCII label."""
    return HKDFExpand(algorithm=SHA256(), length=size, info=PROTOID + b":" + label.encode()).derive(seed)


def public_bytes(private: X25519PrivateKey) -> bytes:
    """The 32 bytes of a private key's public key."""
    return private.public_key().public_bytes_raw()


def _derive(shared: bytes, target: Target, *, client: bytes, server: bytes) -> tuple[bytes, bytes]:
    # The fields are of fixed size, so their concatenation has one reading.
    secret = shared + target.identity_key + target.onion_key + client + server + PROTOID + target.context
    seed = _tweaked(b":key_extract", secret)
    verify = _tweaked(b":verify", secret)
    auth = _tweaked(b":mac", verify + target.identity_key + target.onion_key + server + client + PROTOID + target.context + b"Server")
    return seed, auth


def _tweaked(tweak: bytes, data: bytes) -> bytes:
    return hmac.digest(PROTOID + tweak, data, "sha256")


def _exchange(private: X25519PrivateKey, public: bytes) -> bytes:
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:  # the shared secret would be zero: a point of low order
        raise ProtocolViolation("BadHandshake", "a public key of low order") from error
