"""A relay's keys: born in memory, never written anywhere.

The identity key (Ed25519) signs the proof of possession and authenticates links. An owner may keep it in a Secret (ADR 16): then a
restarted relay is the same one, else it is a new one. The onion key (X25519) is rotated by the operator, the previous one stays accepted
until the next rotation, so that clients with a directory of a moment ago still get through. It is never kept: once the process is gone
nobody can open what was sent to it. Each onion key has its own replay cache. Paper step 5.
"""

import dataclasses
import pathlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from veilpod.core.identity import make_proof
from veilpod.core.ids import Address
from veilpod.core.onion import relay_identity
from veilpod.core.onion.ntor import public_bytes
from veilpod.core.onion.replay import ReplayCache
from veilpod.errors import InvalidInput

_KEPT = 2


@dataclasses.dataclass(slots=True, kw_only=True, repr=False, eq=False)
class OnionKey:
    """An onion key with the memory of what was sent to it."""

    private: X25519PrivateKey
    public: bytes
    seen: ReplayCache


class RelayKeys:
    """The keys of one relay. Without an identity key that was kept, one is made."""

    def __init__(self, identity: Ed25519PrivateKey | None = None) -> None:
        self.identity = identity or Ed25519PrivateKey.generate()
        self.identity_public = self.identity.public_key().public_bytes_raw()
        self._onion = [_born()]

    @property
    def newest(self) -> OnionKey:
        """The onion key that the registry is to list."""
        return self._onion[0]

    def find(self, public: bytes) -> OnionKey | None:
        """An accepted onion key by its public part."""
        return next((key for key in self._onion if key.public == public), None)

    def rotate(self, replaces: bytes) -> None:
        """Make a new onion key if the newest is still the one to replace; so a repeated command changes nothing."""
        if self.newest.public == replaces:
            self._onion = [_born(), *self._onion][:_KEPT]

    def prove(self, *, owner: Address, key_epoch: int, registry: Address, chain_id: int) -> bytes:
        """Prove possession of the newest onion key for a registry entry."""
        return make_proof(
            self.identity, owner=owner, onion_key=self.newest.public, key_epoch=key_epoch, registry=registry, chain_id=chain_id
        )


def kept_identity(path: pathlib.Path) -> Ed25519PrivateKey:
    """Read the identity key that the owner keeps. Raises InvalidInput("IdentityMissing"), InvalidInput("IdentityMalformed")."""
    try:
        with path.open("rb") as file:
            pem = file.read(relay_identity.MAX_BYTES + 1)
    except OSError as error:
        raise InvalidInput(relay_identity.MISSING, "there is no identity for this relay, and it makes none of its own") from error
    return relay_identity.parse(pem)


def _born() -> OnionKey:
    private = X25519PrivateKey.generate()
    return OnionKey(private=private, public=public_bytes(private), seen=ReplayCache())
