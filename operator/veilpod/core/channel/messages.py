"""What two operators say to each other about their channel (docs/protocol/task.md, "Channel proposal").

Spelling only; the agents carry it without reading it, `machine` decides what to say.
"""

import dataclasses
from typing import Any

from veilpod.core.canonical import to_hex
from veilpod.core.channel.rules import MAX_RECEIPTS
from veilpod.core.channel.state import ChannelState, parse_state
from veilpod.core.fields import Fields
from veilpod.core.keys import SIGNATURE_BYTES
from veilpod.core.receipt import Receipt, parse_receipt
from veilpod.errors import ProtocolViolation

_MAX_VERSION = (1 << 56) - 1
_PARTY = "peer"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Propose:
    """a asks b to sign the next state. `close_signature` is a's consent to close with it, b"" unless final."""

    state: ChannelState
    receipts: tuple[Receipt, ...]
    final: bool
    signature: bytes
    close_signature: bytes = b""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cosign:
    """b has signed."""

    version: int
    signature: bytes
    close_signature: bytes = b""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """b does not sign this version. An honest proposer never sees it."""

    version: int
    code: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Flush:
    """b's side of the link has ended, with this many bytes sent and received by b's sandbox: a final state is wanted."""

    sent: int
    received: int


Message = Propose | Cosign | Reject | Flush


def encode(message: Message) -> dict[str, Any]:
    """Spell a message for the control stream."""
    match message:
        case Propose():
            body = {
                "state": message.state.to_json(),
                "receipts": [receipt.document() for receipt in message.receipts],
                "final": message.final,
                "signature": to_hex(message.signature),
            }
            return {"propose": body | ({"closeSignature": to_hex(message.close_signature)} if message.final else {})}
        case Cosign():
            body = {"version": message.version, "signature": to_hex(message.signature)}
            return {"cosign": body | ({"closeSignature": to_hex(message.close_signature)} if message.close_signature else {})}
        case Reject():
            return {"reject": {"version": message.version, "code": message.code}}
        case Flush():
            return {"flush": {"sent": message.sent, "received": message.received}}


def parse(payload: Any) -> Message:
    """Read a message. Raises ProtocolViolation."""
    if not isinstance(payload, dict) or len(payload) != 1:
        raise ProtocolViolation("BadMessage", "a channel message has one key", party=_PARTY)
    ((kind, body),) = payload.items()
    fields = Fields(body, what=str(kind), party=_PARTY)
    message: Message
    match kind:
        case "propose":
            final = fields.flag("final")
            message = Propose(
                state=parse_state(fields.take("state")),
                receipts=tuple(parse_receipt(receipt, party=_PARTY) for receipt in fields.items("receipts", maximum=MAX_RECEIPTS)),
                final=final,
                signature=fields.data("signature", SIGNATURE_BYTES),
                close_signature=fields.data("closeSignature", SIGNATURE_BYTES) if final else b"",
            )
        case "cosign":
            close = fields.data("closeSignature", SIGNATURE_BYTES) if "closeSignature" in fields.names() else b""
            message = Cosign(
                version=fields.integer("version", maximum=_MAX_VERSION),
                signature=fields.data("signature", SIGNATURE_BYTES),
                close_signature=close,
            )
        case "reject":
            message = Reject(version=fields.integer("version", maximum=_MAX_VERSION), code=fields.text("code", maximum=64))
        case "flush":
            message = Flush(sent=fields.integer("sent"), received=fields.integer("received"))
        case _:
            raise ProtocolViolation("BadMessage", "an unknown channel message", party=_PARTY)
    fields.done()
    return message
