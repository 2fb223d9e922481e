"""What a party must remember of a channel, and how it is spelled on disk: canonical JSON, one record each.

A state is recorded before the signature on it leaves, so whatever a peer can show was written down here first. Where the records lie is for
`veilpod.chain.journal`. Paper steps 7 and 11.
"""

import dataclasses
from typing import Any

from veilpod.core.canonical import canonical, from_hex, parse_canonical, to_hex
from veilpod.core.channel.state import ChannelState, parse_state
from veilpod.core.ids import ChannelId
from veilpod.core.receipt import Receipt, parse_receipt
from veilpod.errors import ProtocolViolation


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A state with the signatures that are known, b"" for those that are not. A final one carries signatures for closing at once too."""

    state: ChannelState
    final: bool
    signature_a: bytes = b""
    signature_b: bytes = b""
    close_a: bytes = b""
    close_b: bytes = b""

    @property
    def complete(self) -> bool:
        """Whether both have signed: the chain would take it."""
        closes = bool(self.close_a and self.close_b)
        return bool(self.signature_a and self.signature_b) and (closes or not self.final)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StateRecord:
    """A state that one or both have signed, with the receipts that led to it from the version before."""

    channel: ChannelId
    signed: Signed
    receipts: tuple[Receipt, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptRecord:
    """A receipt that our own agent has attested and that no state holds yet."""

    channel: ChannelId
    epoch: int
    receipt: Receipt


Record = StateRecord | ReceiptRecord


def encode(record: Record) -> bytes:
    """Spell a record."""
    if isinstance(record, ReceiptRecord):
        return canonical({"channel": to_hex(record.channel), "epoch": record.epoch, "receipt": record.receipt.document()})
    signed = record.signed
    names = ("signature_a", "signature_b", "close_a", "close_b")
    return canonical(
        {
            "channel": to_hex(record.channel),
            "state": signed.state.to_json(),
            "final": signed.final,
            "receipts": [receipt.document() for receipt in record.receipts],
            "signatures": [to_hex(getattr(signed, name)) for name in names],
        }
    )


def decode(data: bytes) -> Record:
    """Read a record. Raises ProtocolViolation("BadRecord"): what we wrote ourselves cannot be read."""
    try:
        value: Any = parse_canonical(data)
        channel = ChannelId(from_hex(value["channel"], 32))
        if "receipt" in value:
            return ReceiptRecord(channel=channel, epoch=value["epoch"], receipt=parse_receipt(value["receipt"], party="journal"))
        signature_a, signature_b, close_a, close_b = (from_hex(text) for text in value["signatures"])
        signed = Signed(
            state=parse_state(value["state"]),
            final=value["final"],
            signature_a=signature_a,
            signature_b=signature_b,
            close_a=close_a,
            close_b=close_b,
        )
        receipts = tuple(parse_receipt(receipt, party="journal") for receipt in value["receipts"])
        return StateRecord(channel=channel, signed=signed, receipts=receipts)
    except (KeyError, TypeError, ValueError, ProtocolViolation) as error:
        raise ProtocolViolation("BadRecord", f"a record of a channel cannot be read: {error}", party="journal") from error
