"""A relay's keys: born in memory, never written anywhere. A restarted relay is a new one.

The identity key (Ed25519) signs the proof of possession and authenticates links; the onion key (X25519) is rotated by the operator, the
previous one stays accepted until the next rotation, so that clients with a directory of a moment ago still get through. Each onion key
has its own replay cache. Paper step 5.
"""

import dataclasses

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from veilpod.core.identity import make_proof
from veilpod.core.ids import Address
from veilpod.core.onion.ntor import public_bytes
from veilpod.core.onion.replay import ReplayCache

_KEPT = 2


@dataclasses.dataclass(slots=True, kw_only=True, repr=False, eq=False)
class OnionKey:
    """An onion key with the memory of what was sent to it."""

    private: X25519PrivateKey
    public: bytes
    seen: ReplayCache


class RelayKeys:
    """The keys of one relay."""

    def __init__(self) -> None:
        self.identity = Ed25519PrivateKey.generate()
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


def _born() -> OnionKey:
    private = X25519PrivateKey.generate()
    return OnionKey(private=private, public=public_bytes(private), seen=ReplayCache())
