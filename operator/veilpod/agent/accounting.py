"""Counting bytes on a peer link, both directions, so that each is attested once and paid once (paper step 7).

Received bytes are gathered into batches; a batch becomes a receipt, signed here. Sent bytes are kept until the peer's receipt for them
was checked against their SHA-256, and nothing more is sent while a window of bytes is unpaid: a peer that stops signing can steal at most
one window.
"""

import asyncio
import collections
import hashlib
from collections.abc import Sequence

from veilpod.core.ids import Address
from veilpod.core.keys import SigningKey
from veilpod.core.receipt import Receipt, Transcript
from veilpod.errors import ProtocolViolation

WINDOW = 8 << 20
BATCH = 1 << 20
BATCH_SECONDS = 0.25
_MAX_PARTS = 512

Parts = list[tuple[int, int]]  # (stream number, bytes), in the order in which the digest covers them


class Received:
    """The receiving direction: we attest, our server pays."""

    def __init__(self, transcript: Transcript, key: SigningKey) -> None:
        self._transcript, self._key = transcript, key
        self._hasher = hashlib.sha256()
        self._parts: Parts = []
        self._pending = 0
        self.total = 0

    def add(self, stream: int, data: bytes) -> bool:
        """Count bytes that arrived. Whether the batch is full."""
        self._hasher.update(data)
        self._pending += len(data)
        self.total += len(data)
        if self._parts and self._parts[-1][0] == stream:
            self._parts[-1] = (stream, self._parts[-1][1] + len(data))
        else:
            self._parts.append((stream, len(data)))
        return self._pending >= BATCH or len(self._parts) >= _MAX_PARTS

    def attest(self) -> tuple[Receipt, Parts] | None:
        """Sign a receipt for what has gathered, if anything has."""
        if not self._pending:
            return None
        self._transcript, receipt = self._transcript.append(self._pending, self._hasher.digest(), self._key)
        parts = self._parts
        self._hasher, self._parts, self._pending = hashlib.sha256(), [], 0
        return receipt, parts

    @property
    def attested(self) -> int:
        """Bytes with a receipt."""
        return self._transcript.total


class Sent:
    """The sending direction: the peer attests, its server pays. `priced`: whether the window waits for payment or for receipts only."""

    def __init__(self, transcript: Transcript, receiver: Address, *, priced: bool) -> None:
        self._transcript, self._receiver, self._priced = transcript, receiver, priced
        self._kept: dict[int, collections.deque[memoryview]] = {}
        self.total = 0
        self._paid = 0
        self._moved = asyncio.Event()

    async def reserve(self, size: int) -> None:
        """Wait until `size` more bytes fit into the window."""
        while self.total + size - self._settled > WINDOW:
            self._moved.clear()
            await self._moved.wait()

    def add(self, stream: int, data: bytes) -> None:
        """Keep bytes that are being sent until their receipt comes."""
        self.total += len(data)
        self._kept.setdefault(stream, collections.deque()).append(memoryview(data))

    def accept(self, receipt: Receipt, parts: Sequence[tuple[int, int]]) -> None:
        """Check the peer's receipt against what was sent, and let go of it. Raises ProtocolViolation("BadReceipt")."""
        transcript = self._transcript.accept(receipt, self._receiver)
        hasher = hashlib.sha256()
        if sum(size for _, size in parts) != receipt.size:
            raise ProtocolViolation("BadReceipt", "a receipt whose parts are not its bytes", party="peer")
        for stream, size in parts:
            self._release(stream, size, hasher.update)
        if hasher.digest() != receipt.digest:
            raise ProtocolViolation("BadReceipt", "a receipt for other bytes than were sent", party="peer")
        self._transcript = transcript
        self._moved.set()

    def credit(self, paid: int) -> None:
        """The peer's server has paid for this many bytes since the start. Never goes back."""
        self._paid = max(self._paid, paid)
        self._moved.set()

    @property
    def attested(self) -> int:
        """Bytes with a receipt."""
        return self._transcript.total

    @property
    def _settled(self) -> int:
        # Payment cannot run ahead of receipts; without a price the receipts themselves are what is waited for.
        return min(self._paid, self.attested) if self._priced else self.attested

    def _release(self, stream: int, size: int, update: object) -> None:
        kept = self._kept.get(stream, collections.deque())
        while size > 0:
            if not kept:
                raise ProtocolViolation("BadReceipt", "a receipt for more bytes than were sent", party="peer")
            head = kept.popleft()
            if len(head) > size:
                kept.appendleft(head[size:])
                head = head[:size]
            size -= len(head)
            if callable(update):
                update(head)
        if not kept:
            self._kept.pop(stream, None)
