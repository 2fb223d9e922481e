"""Attributable failure: the report inside a DESTROY that tells the client, and nobody else, which link failed.

A relay that ends a circuit seals 16 zero bytes and a reason under its own report key; each relay on the way back adds its layer (as in
BOLT 4). The client opens layer after layer until it sees the zeros: that relay wrote it. A liar can only blame a link of its own, and a
layer that does not open blames the link where it was spoilt. Each report key seals once, so its nonce is constant. Paper: "onion routers
that drop or delay" (reputation is future work there).
"""

import dataclasses
import enum
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from veilpod.core.onion.geometry import TAG
from veilpod.core.onion.layers import HopKeys, Random
from veilpod.core.onion.messages import DestroyReason
from veilpod.errors import ProtocolViolation

REPORT = 256
_MAGIC = bytes(16)
_NONCE = bytes(12)
_AAD = b"veilpod-report-1"


_NOBODYS_FAULT = (DestroyReason.PEER_CLOSED, DestroyReason.NO_SUCH_COOKIE)


class Side(enum.IntEnum):
    """Which of its links a relay reports."""

    NONE = 0
    PREVIOUS = 1
    NEXT = 2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the client learns. `hop` is the reporter's position (from 1); `blamed` is a pair of positions, 0 being the client itself."""

    reason: DestroyReason
    hop: int
    blamed: tuple[int, int] | None


def make_report(keys: HopKeys, position: int, reason: DestroyReason, side: Side, random: Random) -> bytes:
    """Write a report as the relay at this position. 256 bytes."""
    plain = (_MAGIC + bytes((reason, side))).ljust(REPORT - TAG * position, b"\0")
    return _seal(keys, plain, random)


def wrap_report(keys: HopKeys, position: int, report: bytes, random: Random) -> bytes:
    """Add this relay's layer to a report on its way back. 256 bytes."""
    return _seal(keys, report[: REPORT - TAG * position], random)


def open_report(hops: Sequence[HopKeys], report: bytes) -> Report:
    """Find out who wrote a report and what it blames. Never raises: what does not open is itself the evidence."""
    body = report
    for position, hop in enumerate(hops, 1):
        try:
            body = AESGCM(hop.report_key).decrypt(_NONCE, body[: REPORT - TAG * (position - 1)], _AAD)
        except InvalidTag:
            return Report(reason=DestroyReason.TAMPERED, hop=position, blamed=(position - 1, position))
        if body.startswith(_MAGIC):
            return _read(body, position)
    return Report(reason=DestroyReason.PROTOCOL, hop=len(hops), blamed=(len(hops) - 1, len(hops)))


def pack_destroy(reason: DestroyReason, report: bytes | None = None) -> bytes:
    """Spell the payload of DESTROY. Forward ones carry no report."""
    return bytes((reason, report is not None)) + (report or b"")


def parse_destroy(payload: bytes) -> tuple[DestroyReason, bytes | None]:
    """Read the payload of DESTROY. Raises ProtocolViolation("BadDestroy")."""
    try:
        reason, report = DestroyReason(payload[0]), payload[2 : 2 + REPORT] if payload[1] else None
    except (ValueError, IndexError) as error:
        raise ProtocolViolation("BadDestroy", "an unknown reason") from error
    if report is not None and len(report) != REPORT:
        raise ProtocolViolation("BadDestroy", "a report that is too short")
    return reason, report


def refuses_all(payload: bytes) -> bool:
    """Whether a DESTROY is the neighbour's own word that it drains; with a report it would come from further on."""
    return payload[:2] == bytes((DestroyReason.DRAINING, 0))


def _seal(keys: HopKeys, plain: bytes, random: Random) -> bytes:
    sealed = AESGCM(keys.report_key).encrypt(_NONCE, plain, _AAD)
    return sealed + random(REPORT - len(sealed))


def _read(body: bytes, position: int) -> Report:
    try:
        reason, side = DestroyReason(body[16]), Side(body[17])
    except ValueError:
        return Report(reason=DestroyReason.PROTOCOL, hop=position, blamed=(position - 1, position))
    if side is Side.NONE and reason in _NOBODYS_FAULT:
        return Report(reason=reason, hop=position, blamed=None)
    # Who ends a circuit and accuses nobody did it itself.
    blamed = (position, position + 1) if side is Side.NEXT else (position - 1, position)
    return Report(reason=reason, hop=position, blamed=blamed)
