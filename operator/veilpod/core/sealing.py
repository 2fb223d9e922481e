"""Sealing to a public key: HPKE base mode (RFC 9180), two suites.

HYBRID (MLKEM768-X25519) for data and results, which somebody may record today and open in twenty years; CLASSIC (X25519) for what
is worthless in an hour: descriptors, requests. Paper steps 5 and 8 ("encrypted with the sandbox's public key").
"""

import base64

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, MLKEM768X25519PublicKey, Suite

from veilpod.errors import InvalidInput, ProtocolViolation

HYBRID_PUBLIC_BYTES = 1184 + 32
_HYBRID = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_CLASSIC = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_128_GCM)
_RECIPIENT_PREFIX = "veil1"


class HybridPrivateKey:
    """An MLKEM768-X25519 private key: the two 64- and 32-byte seeds it is made of, held together."""

    def __init__(self, mlkem_key: mlkem.MLKEM768PrivateKey, x25519_key: x25519.X25519PrivateKey) -> None:
        self._parts = (mlkem_key, x25519_key)
        self._key = MLKEM768X25519PrivateKey(mlkem_key, x25519_key)

    @classmethod
    def generate(cls) -> "HybridPrivateKey":
        """Make a new key from the operating system's randomness."""
        return cls(mlkem.MLKEM768PrivateKey.generate(), x25519.X25519PrivateKey.generate())

    @classmethod
    def from_bytes(cls, data: bytes) -> "HybridPrivateKey":
        """Load 96 bytes made by `to_bytes`. Raises InvalidInput("InvalidKey")."""
        if len(data) != 96:
            raise InvalidInput("InvalidKey", "a result key is 96 bytes; make one with `veilpod keys new result`")
        return cls(mlkem.MLKEM768PrivateKey.from_seed_bytes(data[:64]), x25519.X25519PrivateKey.from_private_bytes(data[64:]))

    def to_bytes(self) -> bytes:
        """Serialise: ML-KEM seed (64) || X25519 scalar (32). Only for keys that a person keeps in a file."""
        return self._parts[0].private_bytes_raw() + self._parts[1].private_bytes_raw()

    @property
    def public_bytes(self) -> bytes:
        """The public key: ML-KEM-768 encapsulation key (1184) || X25519 (32)."""
        return self._parts[0].public_key().public_bytes_raw() + self._parts[1].public_key().public_bytes_raw()

    def open(self, sealed: bytes, *, tag: str, context: bytes) -> bytes:
        """Open what `seal_hybrid` sealed. Raises ProtocolViolation("CannotOpen")."""
        try:
            return _HYBRID.decrypt(sealed, self._key, info=_info(tag, context))
        except (InvalidTag, ValueError) as error:
            raise ProtocolViolation("CannotOpen", f"not sealed to this key for this purpose ({tag})") from error


def check_hybrid_public(public: bytes) -> None:
    """Check that something can be sealed to this key (1216 bytes). Raises InvalidInput("InvalidRecipient")."""
    _hybrid_public(public)
    try:
        # A point of small order gives everybody the same secret, and is refused by who would seal to it.
        x25519.X25519PrivateKey.from_private_bytes(bytes(32)).exchange(x25519.X25519PublicKey.from_public_bytes(public[1184:]))
    except ValueError as error:
        raise InvalidInput("InvalidRecipient", "these bytes are no X25519 public key") from error


def seal_hybrid(public: bytes, plaintext: bytes, *, tag: str, context: bytes) -> bytes:
    """Seal to a hybrid public key (1216 bytes). Raises InvalidInput("InvalidRecipient")."""
    return _HYBRID.encrypt(plaintext, _hybrid_public(public), info=_info(tag, context))


def seal_classic(public: bytes, plaintext: bytes, *, tag: str, context: bytes) -> bytes:
    """Seal to an X25519 public key (32 bytes)."""
    return _CLASSIC.encrypt(plaintext, x25519.X25519PublicKey.from_public_bytes(public), info=_info(tag, context))


def open_classic(private: x25519.X25519PrivateKey, sealed: bytes, *, tag: str, context: bytes) -> bytes:
    """Open what `seal_classic` sealed. Raises ProtocolViolation("CannotOpen")."""
    try:
        return _CLASSIC.decrypt(sealed, private, info=_info(tag, context))
    except (InvalidTag, ValueError) as error:
        raise ProtocolViolation("CannotOpen", f"not sealed to this key for this purpose ({tag})") from error


def recipient_text(public: bytes) -> str:
    """Spell a hybrid public key for a manifest: `veil1` and URL-safe base64."""
    return _RECIPIENT_PREFIX + base64.urlsafe_b64encode(public).decode().rstrip("=")


def recipient_bytes(text: str) -> bytes:
    """Read a manifest's recipient. Raises InvalidInput("InvalidRecipient") with the remedy."""
    try:
        if not text.startswith(_RECIPIENT_PREFIX):
            raise ValueError("prefix")
        body = text.removeprefix(_RECIPIENT_PREFIX)
        public = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        _hybrid_public(public)
    except (ValueError, InvalidInput) as error:
        raise InvalidInput("InvalidRecipient", "the recipient is no public key; print yours with `veilpod keys show`") from error
    return public


def _hybrid_public(public: bytes) -> MLKEM768X25519PublicKey:
    if len(public) != HYBRID_PUBLIC_BYTES:
        raise InvalidInput("InvalidRecipient", f"a hybrid public key is {HYBRID_PUBLIC_BYTES} bytes, not {len(public)}")
    try:
        return MLKEM768X25519PublicKey(
            mlkem.MLKEM768PublicKey.from_public_bytes(public[:1184]), x25519.X25519PublicKey.from_public_bytes(public[1184:])
        )
    except ValueError as error:
        raise InvalidInput("InvalidRecipient", "these bytes are no ML-KEM-768 public key") from error


def _info(tag: str, context: bytes) -> bytes:
    return tag.encode() + b"\0" + context
