"""The operator's hand on one relay pod: the relay's commands as typed methods (docs/protocol/onion.md, "Operator's commands").

A relay's control key is born with its process and pinned for the life of a link; when it changes, the pod is looked up again.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from veilpod.core.canonical import from_hex, to_hex
from veilpod.core.ids import Address
from veilpod.core.onion.directory import RelayEntry
from veilpod.core.onion.registration import Running
from veilpod.errors import PeerUnavailable, Refused
from veilpod.ports import ControlLink

_ROTATE_SECONDS = 24 * 3600.0
_ROTATE_PERMILLE = 500  # of the replay cache
_ROTATE_LEAST = 600.0  # each rotation is a transaction: who floods a relay with CREATEs must not spend its owner's money faster than this


class RelayLink:
    """A running relay pod. Every method raises PeerUnavailable when the relay does not answer or is no longer the same."""

    def __init__(self, link: ControlLink, *, pod_uid: str, now: float) -> None:
        self.pod_uid = pod_uid
        self._link, self._key_since = link, now

    async def carry(self, *, bandwidth: int, burst: int) -> None:
        """Tell the relay how many bytes a second it carries at most, and how many at once after a pause."""
        await self._call("carry", bandwidth=bandwidth, burst=burst)

    async def running(self, *, endpoint: str, capacity: int, draining: bool, now: float) -> Running:
        """Tell the relay whether to drain and ask for its public keys; a new onion key when the present one is old or much used."""
        await self._call("drain", draining=draining)
        answer = await self._call("identity")
        age = now - self._key_since
        if age > _ROTATE_SECONDS or (answer["replayPermille"] > _ROTATE_PERMILLE and age > _ROTATE_LEAST):
            answer |= await self._call("rotate", replaces=answer["onionKey"])
            self._key_since = now
        return Running(
            identity_key=from_hex(answer["identityKey"], 32),
            onion_key=from_hex(answer["onionKey"], 32),
            endpoint=endpoint,
            capacity=capacity,
            draining=draining,
        )

    async def drain(self) -> int:
        """Tell the relay to take no new circuits. Returns how many are left."""
        return int((await self._call("drain", draining=True))["circuits"])

    async def prove(self, onion_key: bytes, *, owner: Address, key_epoch: int, registry: Address, chain_id: int) -> bytes:
        """A proof of possession of an onion key, which must still be the newest."""
        answer = await self._call("prove", owner=owner.lower(), keyEpoch=key_epoch, registry=registry.lower(), chainId=chain_id)
        if answer["onionKey"] != to_hex(onion_key):
            raise PeerUnavailable("the relay changed its onion key meanwhile")
        return from_hex(answer["proof"], 64)

    async def inform(self, directory: Iterable[RelayEntry], endpoints: Sequence[str]) -> None:
        """Tell the relay whom it may dial, and where circuits may leave."""
        await self._call("directory", directory=[entry.to_json() for entry in directory])
        await self._call("endpoints", endpoints=list(endpoints))

    async def close(self) -> None:
        """End the link."""
        await self._link.close()

    async def _call(self, command: str, **args: Any) -> dict[str, Any]:
        try:
            return await self._link.call(command, **args)
        except Refused as error:
            if error.reason in ("ControlKeyChanged", "ControlRefused"):
                raise PeerUnavailable("the relay changed; looking it up again", retry_after=2) from error
            raise
