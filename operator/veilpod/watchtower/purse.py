"""What a tower's hot key may spend: a cap over any stretch of time of one period, counted before it is spent.

An answer costs at most `GAS` at the sender's fee ceiling. That much is reserved for every transaction that is not settled: those are in the
sender's outbox, on disk before they leave, so a crash frees no reservation. What is settled counts with its real cost, from the sender's
history, and the time at which it was entered here. Times are the chain's, in unix seconds; money in wei.
"""

import contextlib
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from veilpod.chain.files import write_atomically
from veilpod.chain.outbox import Settled
from veilpod.errors import InvalidInput, Refused

# A response takes about 40,000 gas; the sender adds a quarter and 20,000 to the estimate. Both signatures were checked against plain keys
# before, so no contract wallet is asked and nothing in the call can burn more.
GAS = 150_000


class Purse:
    """The account of one key. `history` and `pending` are its sender's."""

    def __init__(
        self,
        file: pathlib.Path,
        *,
        cap: int,
        period: int,
        fee_ceiling: int,
        history: Callable[[], Sequence[Settled]],
        pending: Callable[[], Iterable[str]],
    ) -> None:
        """Load the account. Raises InvalidInput("StateUnreadable")."""
        self.cap, self.period, self.answer_cost = cap, period, GAS * fee_ceiling
        self._file, self._history, self._pending = file, history, pending
        self._reserved: set[str] = set()
        self._sender, self._counted, self._entries = _load(file)

    def spent(self, now: int) -> int:
        """The real cost of what was settled within the last period."""
        return sum(fee for fee, at in self._entries if at > now - self.period)

    def left(self, now: int) -> int:
        """What may still be reserved."""
        return max(0, self.cap - self.spent(now) - self.answer_cost * len(self._outstanding))

    @contextlib.contextmanager
    def reserve(self, intent: str, now: int) -> Iterator[None]:
        """Hold the worst cost of one answer. Raises Refused("CapReached"). What has left already under this intent is reserved already."""
        self.count(now)
        if intent not in self._outstanding and self.left(now) < self.answer_cost:
            raise Refused(
                "CapReached", f"{self.spent(now)} wei of {self.cap} are spent in {self.period} s: raise the cap, or let time pass"
            )
        self._reserved.add(intent)
        try:
            yield
        finally:
            self._reserved.discard(intent)

    def count(self, now: int) -> None:
        """Enter what was settled since the last time. On the disk when this returns."""
        history = self._history()
        sender = history[0].sender if history else self._sender
        if sender != self._sender:  # another key: its history is another file, and what the old one spent stays spent
            self._sender, self._counted = sender, 0
        if len(history) == self._counted:
            return
        fresh = [(line.fee, now) for line in history[self._counted :]]
        self._entries = [(fee, at) for fee, at in self._entries if at > now - self.period] + fresh
        self._counted = len(history)
        document = {"sender": self._sender, "counted": self._counted, "entries": [[str(fee), at] for fee, at in self._entries]}
        write_atomically(self._file, json.dumps(document).encode())

    @property
    def _outstanding(self) -> set[str]:
        return self._reserved | set(self._pending())


def check_cap(cap: int, fee_ceiling: int) -> None:
    """Raises InvalidInput("CapTooLow") when a cap does not pay for one answer."""
    if cap < GAS * fee_ceiling:
        raise InvalidInput(
            "CapTooLow", f"a cap of {cap} wei pays for no answer of up to {GAS * fee_ceiling} wei: raise it, or lower the fee ceiling"
        )


def _load(file: pathlib.Path) -> tuple[str, int, list[tuple[int, int]]]:
    try:
        document = json.loads(file.read_bytes())
        return str(document["sender"]), int(document["counted"]), [(int(fee), int(at)) for fee, at in document["entries"]]
    except FileNotFoundError:
        return "", 0, []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput("StateUnreadable", f"{file.name} in the state directory cannot be read: what was spent is not known") from error
