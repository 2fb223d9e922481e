"""What may follow what: one set of rules for who proposes and who accepts (docs/protocol/task.md, "Channel proposal").

A state follows its predecessor by receipts: each moves ceil(bytes * price / MiB) from the account whose sandbox received the bytes to the
other one, and is folded into the data hash. Nothing else moves money. Pure; signatures on states are for `machine`. Paper step 7.
"""

import dataclasses
from collections.abc import Iterable, Sequence

from veilpod.core.channel.state import ChannelState
from veilpod.core.ids import Address, ChannelId, ServerIndex, TaskId
from veilpod.core.receipt import Receipt, Transcript, fold
from veilpod.core.typed_data import Domain
from veilpod.errors import ProtocolViolation

MAX_RECEIPTS = 256  # per proposal, so that a message stays far below a frame's limit
_MIB_BITS = 20


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Two servers of a task and the channel between their accounts. `a` is the lower account; `price` in wei per MiB."""

    channel: ChannelId
    domain: Domain
    task: TaskId
    servers: tuple[ServerIndex, ServerIndex]  # ascending, as in receipts; says nothing about who is a
    a: Address
    b: Address
    sandbox_a: Address  # the signing keys of the sandboxes' statements
    sandbox_b: Address
    price: int

    def receiver(self, direction: int) -> Address:
        """Whose signature a receipt of a direction carries: a's sandbox for 0, b's for 1."""
        return self.sandbox_b if direction else self.sandbox_a

    def start(self) -> "Progress":
        """Before the first receipt."""
        return Progress(directions=(self._transcript(0), self._transcript(1)))

    def _transcript(self, direction: int) -> Transcript:
        return Transcript(task=self.task, link=self.servers, direction=direction)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far both directions' receipts have come."""

    directions: tuple[Transcript, Transcript]

    @property
    def paid_bytes(self) -> tuple[int, int]:
        """Bytes attested so far that a received, and that b received."""
        return self.directions[0].total, self.directions[1].total

    def accept(self, link: Link, receipt: Receipt) -> "Progress":
        """Check the next receipt of its direction. Raises ProtocolViolation("BadReceipt")."""
        return self._with(receipt.direction, self.directions[receipt.direction].accept(receipt, link.receiver(receipt.direction)))

    def after(self, receipts: Iterable[Receipt]) -> "Progress":
        """Move past receipts that were checked before."""
        progress = self
        for receipt in receipts:
            old = progress.directions[receipt.direction]
            new = dataclasses.replace(old, sequence=receipt.sequence, total=old.total + receipt.size, head=receipt.head)
            progress = progress._with(receipt.direction, new)
        return progress

    def includes(self, receipt: Receipt) -> bool:
        """Whether a receipt is behind us already."""
        return receipt.sequence <= self.directions[receipt.direction].sequence

    def _with(self, direction: int, transcript: Transcript) -> "Progress":
        zero, one = self.directions
        return Progress(directions=(zero, transcript) if direction else (transcript, one))


def amount(size: int, price: int) -> int:
    """What a receipt of `size` bytes costs its receiver: ceil(size * price / MiB), in wei."""
    return -(-size * price >> _MIB_BITS)


def propose(previous: ChannelState, receipts: Sequence[Receipt], price: int) -> ChannelState:
    """The one state that follows by these receipts. Raises ProtocolViolation("BalanceTooLow") rather than a balance below zero."""
    balance_a, balance_b = previous.balance_a, previous.balance_b
    for receipt in receipts:
        moved = amount(receipt.size, price) * (1 if receipt.direction else -1)
        balance_a, balance_b = balance_a + moved, balance_b - moved
        if balance_a < 0 or balance_b < 0:
            raise ProtocolViolation("BalanceTooLow", "a receipt that its payer's balance does not cover", party="peer")
    return ChannelState(
        version=previous.version + 1, balance_a=balance_a, balance_b=balance_b, data_hash=fold(previous.data_hash, receipts)
    )


def affordable(previous: ChannelState, receipts: Iterable[Receipt], price: int) -> tuple[Receipt, ...]:
    """The receipts, in order, that a proposal can hold. What a payer cannot cover waits, and all behind it in its direction too."""
    balances = [previous.balance_a, previous.balance_b]
    blocked = [False, False]
    chosen: list[Receipt] = []
    for receipt in receipts:
        cost, payer = amount(receipt.size, price), receipt.direction
        if len(chosen) == MAX_RECEIPTS:
            break
        if blocked[payer] or balances[payer] < cost:
            blocked[payer] = True
            continue
        balances[payer] -= cost
        balances[1 - payer] += cost
        chosen.append(receipt)
    return tuple(chosen)


def check(link: Link, previous: ChannelState, progress: Progress, state: ChannelState, receipts: Sequence[Receipt]) -> Progress:
    """Check a proposed state and say how far it comes. Raises ProtocolViolation; its reason is the code of the rejection."""
    if state.version != previous.version + 1 or state.epoch != previous.epoch:
        raise ProtocolViolation("NotSuccessor", "a proposal that is not the next version", party="peer")
    if len(receipts) > MAX_RECEIPTS:
        raise ProtocolViolation("TooManyReceipts", f"more than {MAX_RECEIPTS} receipts in a proposal", party="peer")
    for receipt in receipts:
        progress = progress.accept(link, receipt)
    if state != propose(previous, receipts, link.price):
        raise ProtocolViolation("WrongState", "a state that does not follow from its receipts", party="peer")
    return progress
