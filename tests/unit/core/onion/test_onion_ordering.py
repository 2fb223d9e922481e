"""Messages over legs that are lost: each is handled once, in order, or is still kept."""

import collections

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from veilpod.core.onion.messages import Message, RelayCommand
from veilpod.core.onion.ordering import Inbox, Outbox
from veilpod.errors import CircuitFailed, ProtocolViolation


class TwoLegs(RuleBasedStateMachine):
    """Two ends and two legs; a leg is first in, first out until it is lost with what is on it, and comes back empty."""

    def __init__(self):
        super().__init__()
        self.outbox, self.inbox = Outbox(), Inbox(1000)
        self.legs = {0: collections.deque(), 1: collections.deque()}
        self.said, self.heard = [], []

    def carry(self, sent, leg):
        sent.leg = leg
        self.legs[leg].append((sent.number, bytes(sent.data)))

    @rule(leg=st.sampled_from([0, 1, None]))
    def say(self, leg):
        sent = self.outbox.put(RelayCommand.DATA, len(self.said).to_bytes(4, "big"), flags=0, stream_id=1)
        self.said.append(bytes(sent.data))
        if leg is None:
            self.outbox.wait(sent)
        else:
            self.carry(sent, leg)

    @rule(leg=st.sampled_from([0, 1]), count=st.integers(1, 5))
    def arrive(self, leg, count):
        for _ in range(min(count, len(self.legs[leg]))):
            number, data = self.legs[leg].popleft()
            message = Message(command=RelayCommand.DATA, flags=0, stream_id=1, data=memoryview(bytearray(data)))
            self.heard += [bytes(each.data) for each in self.inbox.take(number, message)]
            message.data[:] = b"\xff" * len(data)  # the cell is used again

    @rule()
    def confirm(self):
        self.outbox.confirm(self.inbox.newest)

    @rule(leg=st.sampled_from([0, 1]))
    def lose(self, leg):
        self.legs[leg].clear()
        self.outbox.take_back(leg)

    @precondition(lambda self: self.outbox.waits)
    @rule(leg=st.sampled_from([0, 1]))
    def again(self, leg):
        self.carry(self.outbox.next(), leg)

    @invariant()
    def in_order_and_once(self):
        assert self.heard == self.said[: len(self.heard)]

    def teardown(self):
        for leg in (0, 1):
            self.lose(leg)
        while self.outbox.waits:
            self.carry(self.outbox.next(), 0)
        self.arrive(0, 10**6)
        assert self.heard == self.said
        self.confirm()
        assert not self.outbox.waits


TestTwoLegs = TwoLegs.TestCase


def test_an_end_that_confirms_nothing_is_left():
    outbox = Outbox()
    for _ in range(4096):
        outbox.put(RelayCommand.SENDME, b"", flags=0, stream_id=0)
    with pytest.raises(CircuitFailed):
        outbox.put(RelayCommand.SENDME, b"", flags=0, stream_id=0)


def test_what_was_never_sent_cannot_be_confirmed():
    with pytest.raises(ProtocolViolation):
        Outbox().confirm(1)


def test_no_more_is_held_ahead_than_credit_allows():
    inbox, message = Inbox(2), Message(command=RelayCommand.DATA, flags=0, stream_id=1, data=memoryview(b""))
    assert not list(inbox.take(2, message)) + list(inbox.take(3, message))
    with pytest.raises(ProtocolViolation):
        list(inbox.take(4, message))
