"""Legs: the several circuits that one session may have, at once or one after the other (Conflux's word, Tor proposal 329).

Every end-to-end message begins with three numbers: its own in the session, the newest that has arrived without a gap, and how many
messages have arrived on this leg. So messages may take any leg, and those of a leg that is lost go again over another one.

Where the two ends meet again needs no talk either: both order the relays of the directory by HMAC under a key that only they know
(highest random weight, Thaler and Ravishankar 1998), and the cookie at each follows from the same key. Pure. Paper steps 5 and 7.
"""

import dataclasses
import hmac
import struct
from collections.abc import Iterable

from veilpod.core.ids import NodeId
from veilpod.core.onion.geometry import COOKIE
from veilpod.errors import ProtocolViolation

_NUMBERS = struct.Struct(">III")
MAX_NUMBER = (1 << 32) - 1
MIN_RATE, MAX_RATE = 256 << 10, 1 << 30  # bytes a second of a leg with a constant rate
PLACES = 3  # relays at which two ends look for each other
_PROOF = b"veilpod-leg-1"
_PLACES = b"veilpod-places-1"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """The head of an end-to-end message. `number` is 0 for what belongs to the leg alone: LINK, ACK, and END of the whole session."""

    number: int
    newest: int  # every number up to this one has arrived
    arrived: int  # messages on this leg, without ACKs that ask for nothing

    def put(self, area: memoryview) -> None:
        """Write them."""
        _NUMBERS.pack_into(area, 0, self.number, self.newest, self.arrived)


def parse_numbers(area: memoryview) -> Numbers:
    """Read them. Any 12 bytes are numbers; what they may be, the session knows."""
    number, newest, arrived = _NUMBERS.unpack_from(area)
    return Numbers(number=number, newest=newest, arrived=arrived)


def pack_link(session: bytes, *, key: bytes, leg: bytes) -> bytes:
    """Spell the data of LINK: the session (32 bytes) that a leg joins, and the proof (32 bytes) that the guest has that session's key."""
    return session + _proof(session, key=key, leg=leg)


def parse_link(data: bytes) -> bytes:
    """Return the session that a LINK names. Raises ProtocolViolation("BadLink")."""
    if len(data) != 64:
        raise ProtocolViolation("BadLink", "a LINK of a wrong size", party="guest")
    return data[:32]


def verify_link(data: bytes, *, key: bytes, leg: bytes) -> None:
    """Check the proof of a LINK. Raises ProtocolViolation("BadLink")."""
    if not hmac.compare_digest(data, pack_link(parse_link(data), key=key, leg=leg)):
        raise ProtocolViolation("BadLink", "a leg whose guest does not have the session's key", party="guest")


def _proof(session: bytes, *, key: bytes, leg: bytes) -> bytes:
    return hmac.digest(key, _PROOF + session + leg, "sha256")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where two ends may meet: a relay, and the cookie (20 bytes) that waits there."""

    relay: NodeId
    cookie: bytes


def places(relays: Iterable[NodeId], *, cookie: bytes, service_key: bytes, count: int = PLACES) -> list[Place]:
    """Order relays for two ends that share a descriptor. Both get the same order, and nobody else any."""
    key = hmac.digest(cookie, _PLACES + service_key, "sha256")
    first = sorted(relays, key=lambda relay: hmac.digest(key, b"relay" + relay.to_bytes(4, "big"), "sha256"))[:count]
    return [Place(relay=relay, cookie=hmac.digest(key, b"cookie" + relay.to_bytes(4, "big"), "sha256")[:COOKIE]) for relay in first]
