"""The congestion window on a path that is a line and a delay: it fills the line, keeps what waits short, shares, and trusts nobody."""

import collections
import heapq
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veilpod.core.onion.congestion import CongestionWindow, fixed, tuning
from veilpod.core.onion.geometry import WINDOW, CellClass
from veilpod.errors import ProtocolViolation

BULK = tuning(CellClass.BULK)


class Path:
    """Senders that always have something to say, one line for all of them, and receivers that acknowledge every `step` messages."""

    def __init__(self, *, rate: float, delay: float, kind: CellClass = CellClass.BULK) -> None:
        self.now, self.rate, self.delay, self.tuning = 0.0, rate, delay, tuning(kind)
        self.senders: list[CongestionWindow] = []
        self.delivered = collections.Counter[int]()
        self.waiting = self.waited = 0.0  # messages at the line now; messages x seconds
        self._since = 0.0
        self.stalled_until = 0.0
        self._free = 0.0
        self._events: list[tuple[float, int, object]] = []
        self._order = itertools.count()

    def add(self) -> int:
        """One sender more. Returns its number."""
        self.senders.append(CongestionWindow(self.tuning))
        self._send(len(self.senders) - 1)
        return len(self.senders) - 1

    def run(self, seconds: float) -> dict[int, int]:
        """Let time pass. Returns how many messages of each sender arrived in it."""
        end, before = self.now + seconds, collections.Counter(self.delivered)
        self.waited, self._since = 0.0, self.now
        while self._events and self._events[0][0] <= end:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = end
        return {number: self.delivered[number] - before[number] for number in range(len(self.senders))}

    def _at(self, moment: float, event) -> None:
        heapq.heappush(self._events, (moment, next(self._order), event))

    def _send(self, number: int) -> None:
        sender = self.senders[number]
        while sender.room > 0:
            sender.sent(self.now)
            self._free = max(self.now, self._free, self.stalled_until) + 1 / self.rate
            self._wait(1)
            self._at(self._free, self._leave)
            self._at(self._free + self.delay / 2, lambda: self._arrive(number))

    def _leave(self) -> None:
        self._wait(-1)

    def _wait(self, change: int) -> None:
        self.waited += self.waiting * (self.now - self._since)
        self.waiting, self._since = self.waiting + change, self.now

    def _arrive(self, number: int) -> None:
        self.delivered[number] += 1
        if self.delivered[number] % self.tuning.step == 0:
            self._at(self.now + self.delay / 2, lambda: self._acknowledge(number))

    def _acknowledge(self, number: int) -> None:
        self.senders[number].acknowledged(self.tuning.step, self.now)
        self._send(number)


def jain(shares) -> float:
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


@pytest.mark.parametrize("kind", list(CellClass), ids=lambda kind: kind.name)
@settings(max_examples=20)
@given(data=st.data())
def test_it_fills_a_line_of_any_rate_and_delay_and_keeps_what_waits_short(kind, data):
    limits = tuning(kind)
    # From a line that the least window overfills to the longest that half of the hard window fills.
    path_holds = data.draw(st.floats(limits.step / 2, limits.most / 2), label="messages that the path holds")
    delay = data.draw(st.floats(0.03, 0.3), label="seconds")
    path = Path(rate=path_holds / delay, delay=delay, kind=kind)
    path.add()
    path.run(60 * max(delay, limits.least / path.rate))
    seconds = 15.0  # so the shortest round trip is looked for again in it
    [arrived] = path.run(seconds).values()
    assert arrived >= 0.9 * path.rate * seconds
    assert path.waited / seconds <= 2 * limits.many


@settings(max_examples=10)
@given(st.floats(8, 40), st.floats(0.05, 0.2), st.floats(0.5, 9.0))
def test_two_circuits_share_a_line_alike_whoever_came_first(path_holds, delay, later):
    path = Path(rate=path_holds / delay, delay=delay)
    path.add()
    path.run(later)
    path.add()
    path.run(25.0)
    assert jain(path.run(25.0).values()) >= 0.95


def test_it_recovers_from_a_stall_in_seconds():
    path = Path(rate=200, delay=0.1)
    path.add()
    path.run(10.0)
    path.stalled_until = path.now + 8.0
    path.run(8.0 + 3.0)
    [arrived] = path.run(5.0).values()
    assert arrived >= 0.9 * 200 * 5.0


def test_it_follows_a_path_that_became_longer():
    path = Path(rate=200, delay=0.02)
    path.add()
    path.run(10.0)
    path.delay = 0.15
    path.run(20.0)
    [arrived] = path.run(10.0).values()
    assert arrived >= 0.9 * 200 * 10.0


@given(st.lists(st.tuples(st.integers(0, 80), st.floats(0, 20), st.integers(0, 80)), max_size=200))
def test_whatever_is_acknowledged_and_when_it_stays_between_its_bounds(story):
    window, now = CongestionWindow(BULK), 0.0
    for sends, pause, arrivals in story:
        for _ in range(min(sends, max(0, window.room))):
            window.sent(now)
        now += pause
        window.acknowledged(min(arrivals, window.under_way), now)
        assert BULK.least <= window.window <= BULK.most == WINDOW[CellClass.BULK].circuit


def test_an_end_that_acknowledges_before_anything_can_have_arrived_gets_the_hard_window_and_no_more():
    window, now = CongestionWindow(BULK), 0.0
    for _ in range(1000):
        while window.room > 0:
            window.sent(now)
        now += 1e-6
        window.acknowledged(window.under_way, now)
        assert window.under_way <= WINDOW[CellClass.BULK].circuit


def test_an_end_that_acknowledges_more_than_was_sent_is_refused():
    window = CongestionWindow(BULK)
    window.sent(0.0)
    with pytest.raises(ProtocolViolation) as caught:
        window.acknowledged(2, 1.0)
    assert caught.value.reason == "BadCredit"


def test_an_end_that_never_acknowledges_gets_the_first_window():
    window = CongestionWindow(BULK)
    while window.room > 0:
        window.sent(0.0)
    assert window.under_way == BULK.first


def test_who_says_little_does_not_earn_a_large_window():
    window = CongestionWindow(BULK)
    for number in range(100):
        window.sent(float(number))
        window.acknowledged(1, number + 0.01)
    assert window.window == BULK.first


def test_a_fixed_window_is_the_hard_one_from_the_first_message_on():
    window = CongestionWindow(fixed(CellClass.BULK))
    for number in range(200):
        while window.room > 0:
            window.sent(float(number))
        assert window.under_way == WINDOW[CellClass.BULK].circuit
        window.acknowledged(2, number + 0.5)
