"""The link handshake: SIGMA-I (Krawczyk 2003) over X25519 with Ed25519 identities, and the keys that protect a link.

Three messages of fixed size. The responder (a relay) proves its identity key to the initiator; the initiator is either another relay,
which proves its own, or anonymous. Both proofs travel encrypted, a signature covers both ephemerals and the signer's role, as in TLS 1.3
(RFC 8446, 4.4.3).

A link only hides headers and protects its own cells (CREATE, CREATED, DESTROY, PADDING); relay cells are under the hops' layers already.
Sans I/O. Paper step 5.

    1  initiator -> responder   "VEILPOD1" || X25519 ephemeral                                              40 bytes
    2  responder -> initiator   X25519 ephemeral || AEAD(identity key || signature)                         144 bytes
    3  initiator -> responder   AEAD(0 || random 96)  or  AEAD(1 || identity key || signature)              113 bytes
"""

import hashlib

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from veilpod.core.onion.cells import HeaderMask
from veilpod.core.onion.geometry import HEADER, LINK_PLAIN, TAG
from veilpod.errors import ProtocolViolation

MAGIC = b"VEILPOD1"
HELLO = 40
REPLY = 144
FINAL = 113
_NONCE = bytes(12)  # each handshake key seals one message
_CONTEXT = b" " * 64 + b"veilpod.link.v1 "


class LinkHalf:
    """One direction of an established link: its header mask, and the seal of its own cells with their counter."""

    def __init__(self, secret: bytes, name: bytes) -> None:
        material = _hkdf(secret, b"veilpod.link.v1 traffic " + name, 36)
        self.mask = HeaderMask(material[:16])
        self._aead, self._salt = AESGCM(material[16:32]), material[32:]
        self._counter = 0

    def seal(self, cell: memoryview) -> None:
        """Seal a link cell whose payload lies behind the plain header, in place."""
        body = cell[HEADER:]
        self._aead.encrypt_into(self._nonce(), body[:LINK_PLAIN], bytes(cell[:HEADER]), body[: LINK_PLAIN + TAG])

    def open(self, cell: memoryview) -> bytes:
        """Open a link cell with its plain header. Raises ProtocolViolation("LinkTampered")."""
        body = cell[HEADER:]
        try:
            return self._aead.decrypt(self._nonce(), bytes(body), bytes(cell[:HEADER]))
        except InvalidTag as error:
            raise ProtocolViolation("LinkTampered", "a link cell that the peer did not seal") from error

    def _nonce(self) -> bytes:
        nonce = self._salt + self._counter.to_bytes(8, "big")
        self._counter += 1
        return nonce


class Initiator:
    """The side that dialled. Feed it the responder's bytes."""

    def __init__(self, *, ephemeral: X25519PrivateKey, expected: bytes, identity: Ed25519PrivateKey | None, filler: bytes) -> None:
        self.expected = expected
        self._ephemeral, self._identity, self._filler = ephemeral, identity, filler
        self.hello = MAGIC + ephemeral.public_key().public_bytes_raw()

    def finish(self, reply: bytes) -> tuple[bytes, LinkHalf, LinkHalf]:
        """Check who answered. Returns (third message, sending half, receiving half). Raises ProtocolViolation("BadLinkHandshake")."""
        secret, transcript = _agree(self._ephemeral, reply[:32], self.hello + reply[:32])
        proof = _open(secret, b"responder", reply[32:], transcript)
        if proof[:32] != self.expected:
            raise ProtocolViolation("BadLinkHandshake", "another relay answered than the one that was dialled")
        _verify(proof, b"responder", transcript)
        final = b"\0" + self._filler if self._identity is None else b"\1" + _prove(self._identity, b"initiator", transcript)
        third = _seal(secret, b"initiator", final, transcript)
        return third, LinkHalf(secret, b"initiator"), LinkHalf(secret, b"responder")


class Responder:
    """The relay that was dialled."""

    def __init__(self, *, ephemeral: X25519PrivateKey, identity: Ed25519PrivateKey) -> None:
        self._ephemeral, self._identity = ephemeral, identity
        self._secret = self._transcript = b""

    def reply(self, hello: bytes) -> bytes:
        """Answer the first message. Raises ProtocolViolation("BadLinkHandshake")."""
        if hello[:8] != MAGIC or len(hello) != HELLO:
            raise ProtocolViolation("BadLinkHandshake", "not a Veilpod link")
        public = self._ephemeral.public_key().public_bytes_raw()
        self._secret, self._transcript = _agree(self._ephemeral, hello[8:], hello + public)
        proof = _prove(self._identity, b"responder", self._transcript)
        return public + _seal(self._secret, b"responder", proof, self._transcript)

    def finish(self, third: bytes) -> tuple[bytes | None, LinkHalf, LinkHalf]:
        """Check the initiator's proof. Returns (its identity key or None when anonymous, sending half, receiving half)."""
        final = _open(self._secret, b"initiator", third, self._transcript)
        peer = None
        if final[0] == 1:
            _verify(final[1:], b"initiator", self._transcript)
            peer = final[1:33]
        elif final[0] != 0:
            raise ProtocolViolation("BadLinkHandshake", "neither anonymous nor a relay")
        return peer, LinkHalf(self._secret, b"responder"), LinkHalf(self._secret, b"initiator")


def _agree(private: X25519PrivateKey, public: bytes, transcript: bytes) -> tuple[bytes, bytes]:
    digest = hashlib.sha256(transcript).digest()
    try:
        shared = private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise ProtocolViolation("BadLinkHandshake", "a public key of low order") from error
    return HKDF(algorithm=SHA256(), length=32, salt=digest, info=b"veilpod.link.v1 secret").derive(shared), digest


def _hkdf(secret: bytes, info: bytes, size: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=size, salt=None, info=info).derive(secret)


def _seal(secret: bytes, name: bytes, plain: bytes, transcript: bytes) -> bytes:
    return AESGCM(_hkdf(secret, b"veilpod.link.v1 handshake " + name, 16)).encrypt(_NONCE, plain, transcript)


def _open(secret: bytes, name: bytes, sealed: bytes, transcript: bytes) -> bytes:
    try:
        return AESGCM(_hkdf(secret, b"veilpod.link.v1 handshake " + name, 16)).decrypt(_NONCE, sealed, transcript)
    except InvalidTag as error:
        raise ProtocolViolation("BadLinkHandshake", "the peer did not derive our keys") from error


def _prove(identity: Ed25519PrivateKey, role: bytes, transcript: bytes) -> bytes:
    return identity.public_key().public_bytes_raw() + identity.sign(_CONTEXT + role + b"\0" + transcript)


def _verify(proof: bytes, role: bytes, transcript: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(proof[:32]).verify(proof[32:], _CONTEXT + role + b"\0" + transcript)
    except (InvalidSignature, ValueError) as error:
        raise ProtocolViolation("BadLinkHandshake", "a proof of identity that does not check out") from error
