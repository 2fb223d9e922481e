"""What a relay does for its operator, over the control stream (docs/protocol/onion.md, "Operator's commands").

Every command may be repeated. The operator learns public keys and gets proofs; no command gives out a private key, a circuit or an
address of a client.
"""

import logging
from typing import Any

from veilpod.core.canonical import to_hex
from veilpod.core.fields import Fields
from veilpod.core.onion.directory import RelayEntry
from veilpod.net.control import Handler
from veilpod.relay.router import Relay

log = logging.getLogger(__name__)
_MAX_RELAYS = 4096
_MAX_ENDPOINTS = 4096


class Commands:
    """The commands of one relay."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def handlers(self) -> dict[str, Handler]:
        """The commands by name."""
        return {
            "identity": self._identity,
            "prove": self._prove,
            "rotate": self._rotate,
            "directory": self._directory,
            "endpoints": self._endpoints,
            "drain": self._drain,
            "carry": self._carry,
        }

    async def _identity(self, args: dict[str, Any]) -> dict[str, Any]:
        Fields(args, what="identity", party="operator").done()
        keys = self._relay.keys
        return {
            "identityKey": to_hex(keys.identity_public),
            "onionKey": to_hex(keys.newest.public),
            "replayPermille": int(keys.newest.seen.fill * 1000),
            "circuits": len(self._relay.circuits),
            "draining": self._relay.draining,
        }

    async def _prove(self, args: dict[str, Any]) -> dict[str, Any]:
        fields = Fields(args, what="prove", party="operator")
        proof = self._relay.keys.prove(
            owner=fields.address("owner"),
            key_epoch=fields.integer("keyEpoch", minimum=1, maximum=65535),
            registry=fields.address("registry"),
            chain_id=fields.integer("chainId", minimum=1),
        )
        fields.done()
        return {"proof": to_hex(proof), "onionKey": to_hex(self._relay.keys.newest.public)}

    async def _rotate(self, args: dict[str, Any]) -> dict[str, Any]:
        fields = Fields(args, what="rotate", party="operator")
        replaces = fields.data("replaces", 32)
        fields.done()
        self._relay.keys.rotate(replaces)
        log.info("relay.key_rotated")
        return {"onionKey": to_hex(self._relay.keys.newest.public)}

    async def _directory(self, args: dict[str, Any]) -> dict[str, Any]:
        fields = Fields(args, what="directory", party="operator")
        entries = [RelayEntry.from_json(item) for item in fields.items("directory", maximum=_MAX_RELAYS)]
        fields.done()
        self._relay.use_directory(entries)
        return {"relays": len(entries)}

    async def _endpoints(self, args: dict[str, Any]) -> dict[str, Any]:
        fields = Fields(args, what="endpoints", party="operator")
        endpoints = [str(item) for item in fields.items("endpoints", maximum=_MAX_ENDPOINTS)]
        fields.done()
        self._relay.policy.replace(endpoints)
        return {"endpoints": len(endpoints)}

    async def _drain(self, args: dict[str, Any]) -> dict[str, Any]:
        fields = Fields(args, what="drain", party="operator")
        draining = fields.flag("draining")
        fields.done()
        if draining is not self._relay.draining:
            log.info("relay.draining" if draining else "relay.serving")
        self._relay.draining = draining
        return {"circuits": len(self._relay.circuits)}

    async def _carry(self, args: dict[str, Any]) -> dict[str, Any]:
        fields = Fields(args, what="carry", party="operator")
        bandwidth, burst = fields.integer("bandwidth", minimum=1), fields.integer("burst", minimum=1)
        fields.done()
        self._relay.carry(bandwidth=bandwidth, burst=burst)
        return {"bandwidth": bandwidth, "burst": burst}
