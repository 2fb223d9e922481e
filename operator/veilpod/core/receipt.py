"""Transfer receipts: the receiver of bytes on a peer link attests them, batch by batch, and its server pays (paper step 7).

Each direction of a link is a hash chain of its own: a receipt names the head before and after it, so none can be left out, repeated or
moved. A receipt shows how much and the digest of what, never the data. Pure values; the agent counts bytes, operators fold receipts into
channel states.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

from veilpod.core.canonical import keccak256, tagged_digest, to_hex
from veilpod.core.fields import Fields
from veilpod.core.ids import Address, ServerIndex, TaskId
from veilpod.core.keys import SIGNATURE_BYTES, SigningKey, recover
from veilpod.errors import ProtocolViolation

RECEIPT_TAG = "veilpod.receipt.v1"
ZERO_HEAD = bytes(32)
_MAX_BYTES = (1 << 63) - 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """`size` bytes arrived whose SHA-256 is `digest`.

    `link` is in ascending order of the server index. `direction` 0: the account `a` of the channel received and pays; 1: `b`. `sequence`
    counts from 1 within the direction.
    """

    task: TaskId
    link: tuple[ServerIndex, ServerIndex]
    direction: int
    sequence: int
    size: int
    digest: bytes
    previous: bytes
    head: bytes
    signature: bytes

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {**self._signed_part(), "signature": to_hex(self.signature)}

    @property
    def signed_digest(self) -> bytes:
        """What the receiver's sandbox key signs. 32 bytes."""
        return tagged_digest(RECEIPT_TAG, self._signed_part())

    def _signed_part(self) -> dict[str, Any]:
        return {
            "taskId": to_hex(self.task),
            "link": list(self.link),
            "direction": self.direction,
            "sequence": self.sequence,
            "bytes": self.size,
            "digest": to_hex(self.digest),
            "previous": to_hex(self.previous),
            "head": to_hex(self.head),
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """One direction of one link: how far it has come."""

    task: TaskId
    link: tuple[ServerIndex, ServerIndex]
    direction: int
    sequence: int = 0
    total: int = 0  # bytes of all receipts together
    head: bytes = ZERO_HEAD

    def append(self, size: int, digest: bytes, key: SigningKey) -> tuple["Transcript", Receipt]:
        """Attest a batch of `size` bytes with this SHA-256."""
        receipt = Receipt(
            task=self.task,
            link=self.link,
            direction=self.direction,
            sequence=self.sequence + 1,
            size=size,
            digest=digest,
            previous=self.head,
            head=fold_one(self.head, self.direction, size, digest),
            signature=b"",
        )
        receipt = dataclasses.replace(receipt, signature=key.sign(receipt.signed_digest))
        return self._after(receipt), receipt

    def accept(self, receipt: Receipt, receiver: Address, *, party: str = "peer") -> "Transcript":
        """Check the next receipt, signed by the receiver's sandbox key. Raises ProtocolViolation("BadReceipt")."""
        expected = (self.task, self.link, self.direction, self.sequence + 1, self.head)
        if (receipt.task, receipt.link, receipt.direction, receipt.sequence, receipt.previous) != expected:
            raise ProtocolViolation("BadReceipt", "not the next receipt of this direction", party=party)
        if receipt.head != fold_one(receipt.previous, receipt.direction, receipt.size, receipt.digest):
            raise ProtocolViolation("BadReceipt", "a receipt whose head does not follow", party=party)
        if recover(receipt.signed_digest, receipt.signature) != receiver:
            raise ProtocolViolation("BadReceipt", "a receipt that the receiving sandbox did not sign", party=party)
        return self._after(receipt)

    def _after(self, receipt: Receipt) -> "Transcript":
        return dataclasses.replace(self, sequence=receipt.sequence, total=self.total + receipt.size, head=receipt.head)


def parse_receipt(value: Any, *, party: str = "agent") -> Receipt:
    """Read a receipt. Raises ProtocolViolation."""
    fields = Fields(value, what="receipt", party=party)
    link = fields.items("link", maximum=2)
    if len(link) != 2 or not all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < 16 for i in link) or link[0] >= link[1]:
        raise fields.violation("has a bad link")
    receipt = Receipt(
        task=TaskId(fields.data("taskId", 32)),
        link=(ServerIndex(link[0]), ServerIndex(link[1])),
        direction=fields.integer("direction", maximum=1),
        sequence=fields.integer("sequence", minimum=1),
        size=fields.integer("bytes", minimum=1, maximum=_MAX_BYTES),
        digest=fields.data("digest", 32),
        previous=fields.data("previous", 32),
        head=fields.data("head", 32),
        signature=fields.data("signature", SIGNATURE_BYTES),
    )
    fields.done()
    return receipt


def fold_one(head: bytes, direction: int, size: int, digest: bytes) -> bytes:
    """keccak256(head || direction u8 || bytes u64 || digest): the step of a direction's chain and of a channel's dataHash. 32 bytes."""
    return keccak256(head + bytes([direction]) + size.to_bytes(8, "big") + digest)


def fold(head: bytes, receipts: Iterable[Receipt]) -> bytes:
    """Fold receipts, in the order listed, over a channel state's dataHash. 32 bytes."""
    for receipt in receipts:
        head = fold_one(head, receipt.direction, receipt.size, receipt.digest)
    return head
