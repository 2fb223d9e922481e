"""Whose identity key is whose among an owner's relays, and what is said of a replica that has none. Only public parts are seen here."""

import dataclasses
import logging

from veilpod.core.onion import relay_identity
from veilpod.core.onion.relay_status import Replica
from veilpod.errors import InvalidInput

log = logging.getLogger(__name__)


class IdentityRefused(InvalidInput):
    """The pod's relay has ended, because its owner's Secret holds no usable identity for it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, "the relay ended, for its owner's Secret has no usable identity for it")


class Identities:
    """Which of the owner's replicas has which identity key, by public part. The first one keeps it until it has another or goes.

    Two pods with one key would be one node: its entry on chain would move from one to the other for ever, at the owner's cost.
    """

    def __init__(self) -> None:
        self._held: dict[bytes, object] = {}

    def claim(self, key: bytes, holder: object) -> bool:
        """Whether the key is this replica's. Any other that it had is free."""
        self.release(holder, but=key)
        return self._held.setdefault(key, holder) is holder

    def release(self, holder: object, *, but: bytes | None = None) -> None:
        """Free what a replica had."""
        self._held = {key: held for key, held in self._held.items() if held is not holder or key == but}


def without_identity(was: Replica, reason: str) -> Replica:
    """A replica that is kept out of the directory. A node whose identity key another one has is not its own any more."""
    if was.ready != reason:
        log.warning("relay.without_identity", extra={"reason": reason})
    if reason == relay_identity.SHARED:
        return dataclasses.replace(was, ready=reason, registered="Registering", node_id=None, key_epoch=None)
    return dataclasses.replace(was, ready=reason)
