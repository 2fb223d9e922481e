"""The hybrid ntor handshake: ntor (Goldberg, Stebila, Ustaoglu 2013; Tor proposal 216) with ML-KEM-768 (FIPS 203) beside its X25519.

Two ephemerals of the client (X25519 and ML-KEM), one X25519 ephemeral and one static of the relay. The client knows the relay's identity
and onion key, the relay learns nothing about the client. The seed comes from both Diffie-Hellman exchanges and the encapsulated secret,
with the whole transcript, as Tor proposal 269 combines them: it is forward secret, only the holder of the onion key gets it, and who
records it today and breaks X25519 tomorrow does not. Used for every hop and, with the service key of a descriptor, end to end at a
rendezvous. The transcript also holds eight bytes of context (version, handshake, class, position, key epoch). Paper step 5.

The client can say something to the relay with its first message, under the static exchange alone (`onward_key`): neither forward secret
against a later theft of the onion key nor hybrid. It says only where the circuit goes on.

No randomness here: ephemerals and what was encapsulated are arguments.
"""

import dataclasses
import functools
import hmac

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from veilpod.errors import ProtocolViolation

PROTOID = b"veilpod-ntor-x25519-mlkem768-sha256-1"
SEED = 32
ENCAPSULATION_KEY, CIPHERTEXT = 1184, 1088
ONIONSKIN = 96 + ENCAPSULATION_KEY  # identity key || onion key || X || EK
REPLY = 64 + CIPHERTEXT  # Y || CT || AUTH


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Whom a client wants to talk to: 32 bytes of identity, 32 bytes of X25519 onion key, and the context bytes."""

    identity_key: bytes
    onion_key: bytes
    context: bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ephemeral:
    """A client's keys for one handshake."""

    x25519: X25519PrivateKey
    mlkem: MLKEM768PrivateKey

    @functools.cached_property
    def public(self) -> bytes:
        """X || EK, 1216 bytes."""
        return public_bytes(self.x25519) + self.mlkem.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> "Ephemeral":
        """Make new ones."""
        return cls(x25519=X25519PrivateKey.generate(), mlkem=MLKEM768PrivateKey.generate())


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Onionskin:
    """A client's first message, parsed."""

    identity_key: bytes
    onion_key: bytes
    x25519: bytes
    mlkem: bytes

    def encapsulate(self) -> tuple[bytes, bytes]:
        """Make the secret that the relay contributes. Returns (secret, ciphertext). Raises ProtocolViolation("BadHandshake")."""
        try:
            return MLKEM768PublicKey.from_public_bytes(self.mlkem).encapsulate()
        except ValueError as error:  # FIPS 203 section 7.2: coefficients out of range
            raise ProtocolViolation("BadHandshake", "an encapsulation key that is none") from error


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a relay has after a handshake: its reply, the key seed, the key of what came with the onionskin."""

    reply: bytes
    seed: bytes
    onward_key: bytes


def onionskin(target: Target, ephemeral: Ephemeral) -> bytes:
    """Make the client's message. 1280 bytes."""
    return target.identity_key + target.onion_key + ephemeral.public


def parse_onionskin(data: bytes) -> Onionskin:
    """Read a client's message. Raises ProtocolViolation("BadHandshake")."""
    if len(data) != ONIONSKIN:
        raise ProtocolViolation("BadHandshake", f"an onionskin is {ONIONSKIN} bytes")
    return Onionskin(identity_key=data[:32], onion_key=data[32:64], x25519=data[64:96], mlkem=data[96:])


def respond(
    target: Target, *, static: X25519PrivateKey, client: Onionskin, ephemeral: X25519PrivateKey, encapsulated: tuple[bytes, bytes]
) -> Answer:
    """Answer as the relay. `encapsulated` is what `client.encapsulate()` gave.

    Raises ProtocolViolation("BadHandshake") for a low-order point.
    """
    secret, ciphertext = encapsulated
    first = _exchange(static, client.x25519)
    shared = _exchange(ephemeral, client.x25519) + first + secret
    publics, answer = client.x25519 + client.mlkem, public_bytes(ephemeral) + ciphertext
    seed, auth = _derive(shared, target, client=publics, server=answer)
    return Answer(reply=answer + auth, seed=seed, onward_key=_onward(first, target, publics))


def onward_key(target: Target, ephemeral: Ephemeral) -> bytes:
    """Return the key (16 bytes, for one message) of what a client sends with its onionskin."""
    return _onward(_exchange(ephemeral.x25519, target.onion_key), target, ephemeral.public)


def finish(target: Target, reply: bytes, *, ephemeral: Ephemeral) -> bytes:
    """Check the relay's answer as the client and return the key seed. Raises ProtocolViolation("BadHandshake")."""
    if len(reply) != REPLY:
        raise ProtocolViolation("BadHandshake", f"an answer is {REPLY} bytes")
    server, auth = reply[:-32], reply[-32:]
    shared = _exchange(ephemeral.x25519, server[:32]) + _exchange(ephemeral.x25519, target.onion_key)
    shared += ephemeral.mlkem.decapsulate(server[32:])  # of an altered ciphertext it makes another secret, and AUTH tells
    seed, expected = _derive(shared, target, client=ephemeral.public, server=server)
    if not hmac.compare_digest(auth, expected):
        raise ProtocolViolation("BadHandshake", "the answer does not come from the holder of the onion key")
    return seed


def expand(seed: bytes, label: str, size: int) -> bytes:
    """Derive key material from a seed or secret: HKDF-Expand-SHA256 (RFC 5869) with an ASCII label."""
    return HKDFExpand(algorithm=SHA256(), length=size, info=PROTOID + b":" + label.encode()).derive(seed)


def public_bytes(private: X25519PrivateKey) -> bytes:
    """The 32 bytes of a private key's public key."""
    return private.public_key().public_bytes_raw()


def _onward(shared: bytes, target: Target, client: bytes) -> bytes:
    secret = shared + target.identity_key + target.onion_key + client + PROTOID + target.context
    return expand(_tweaked(b":onward_extract", secret), "onward", 16)


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
