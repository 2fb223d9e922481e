"""How much one direction of a circuit may have under way: a window that finds itself by the time that acknowledgements take. Pure.

What waits in front of a bottleneck makes round trips longer and nothing faster. So a sender compares each round trip with the shortest
one that it has seen: under way x (1 - shortest / now) is what only waits. Little of it means room for more, much of it means less. This
is TCP Vegas over the credit that ends give each other anyway, as in Tor's proposal 324, within the hard window that bounds memory: an end
that gives credit too soon gets that window, which everybody would have without this, and no more. Paper step 5.
"""

import collections
import dataclasses
import math

from veilpod.core.onion.geometry import WINDOW, CellClass
from veilpod.errors import ProtocolViolation

# After so long the shortest round trip is looked for again, with half a window: paths change, and others' messages may have stood in it.
_FORGET_SECONDS, _FORGET_ROUNDS = 10.0, 20


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Numbers of messages. `step` is after how many the other end acknowledges; `least` is more, or a sender would wait for ever."""

    step: int
    first: int  # window: what is short should not take many round trips
    least: int
    most: int
    few: int  # that wait, below which the window grows (alpha of Vegas)
    many: int  # above which it shrinks (beta)
    change: int  # by how much in a round trip


def tuning(cell_class: CellClass) -> Tuning:
    """What circuits of a class use."""
    window = WINDOW[cell_class]
    step = window.circuit_step
    return Tuning(step=step, first=4 * step, least=2 * step, most=window.circuit, few=step, many=2 * step, change=step // 2)


def fixed(cell_class: CellClass) -> Tuning:
    """The hard window and nothing else: for who has something below that finds one."""
    return dataclasses.replace(tuning(cell_class), first=WINDOW[cell_class].circuit, least=WINDOW[cell_class].circuit)


class CongestionWindow:
    """One direction. Times are seconds of any clock that never goes back; a round is the time in which what was under way arrives."""

    def __init__(self, tuning: Tuning) -> None:
        self.window = tuning.first
        self._tuning = tuning
        self._sent: collections.deque[float] = collections.deque()  # when each message that is under way was sent
        self._shortest, self._found = math.inf, 0.0  # round trip, and when it was seen
        self._starting = True  # the window doubles each round until something waits
        self._resume = 0  # the window from before the shortest round trip was looked for again
        self._flight = self._left = 0  # what was under way when this round began, and what of it still is
        self._quickest = math.inf  # round trip of this round
        self._full = False  # whether the window was, in this round

    @property
    def under_way(self) -> int:
        """Messages that were sent and not acknowledged."""
        return len(self._sent)

    @property
    def room(self) -> int:
        """How many more may be sent now; below 0 where some were sent without asking."""
        return self.window - len(self._sent)

    def sent(self, now: float) -> None:
        """A message was sent."""
        self._sent.append(now)

    def acknowledged(self, count: int, now: float) -> None:
        """The next `count` messages have arrived. Raises ProtocolViolation("BadCredit") when so many were never sent."""
        if count > len(self._sent):
            raise ProtocolViolation("BadCredit", "credit that was never taken")
        if not count:
            return
        # Acknowledged in steps, a window is full as far as it can be. Who does not fill it learns nothing about a larger one.
        self._full = self._full or len(self._sent) + self._tuning.step > self.window
        took = math.inf
        for _ in range(count):
            took = now - self._sent.popleft()
        if took <= self._shortest:
            self._shortest, self._found = took, now
        self._quickest = min(self._quickest, took)
        self._left -= count
        if self._left <= 0:
            self._end_round(now)
            self._flight = self._left = len(self._sent)
            self._quickest, self._full = math.inf, False

    def _end_round(self, now: float) -> None:
        if not self._resume and now - self._found <= max(_FORGET_SECONDS, _FORGET_ROUNDS * self._quickest):
            self._resize()
        elif not self._resume:
            self._resume, self.window = self.window, max(self._tuning.least, self.window // 2)
        elif self._flight <= self.window:  # else: this round had the old window's messages in it
            self._shortest, self._found = self._quickest, now
            self.window, self._resume = self._resume, 0

    def _resize(self) -> None:
        tuning, size = self._tuning, self.window
        waiting = self._flight * (1 - self._shortest / self._quickest) if self._quickest > 0 else 0.0
        if waiting > 2 * tuning.many:
            size = int(self._flight - waiting) + tuning.many  # it came at once, and so it goes
        elif waiting > tuning.many:
            size -= tuning.change
        elif self._full and self._starting:
            size *= 2
        elif self._full and waiting < tuning.few:
            size += tuning.change
        self._starting = self._starting and waiting <= tuning.many
        self.window = min(tuning.most, max(tuning.least, size))
