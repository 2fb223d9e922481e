"""What a tower does, over everything that a chain can say: never too old, never too late, never for nothing, and always when it is owed."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.support import towers
from tests.support.channels import DOMAIN, KEYS
from tests.support.towers import PENALISED

from veilpod.core.entities import ChainChannel, ChannelPhase
from veilpod.watchtower.decide import MAX_ANSWERS, REMEMBERED, Guard, Verdict, answered, decide, renewed

PAIR = towers.pair(DOMAIN, *KEYS.values())
PERIOD = PENALISED.challenge_period
HELD = {(epoch, sequence): PAIR.agreed(sequence, epoch=epoch) for epoch in (1, 2) for sequence in range(1, 10)}

guards = st.builds(
    lambda held, answers: Guard(held=held, until=10**12, answers=tuple(sorted(answers))),
    st.sampled_from(list(HELD.values())),
    st.sets(st.sampled_from([held.state.version for held in HELD.values()]), max_size=4),
)
channels = st.builds(
    ChainChannel,
    id=st.just(PAIR.place.channel),
    phase=st.sampled_from(list(ChannelPhase)),
    epoch=st.integers(0, 3),
    sequence=st.integers(0, 10),
    deadline=st.integers(0, 3000),
    balance_a=st.just(1),
    balance_b=st.just(1),
)
times = st.integers(0, 4000)


def on_chain(sequence, *, deadline=1000, phase=ChannelPhase.DISPUTED, epoch=1):
    return ChainChannel(id=PAIR.place.channel, phase=phase, epoch=epoch, sequence=sequence, deadline=deadline, balance_a=1, balance_b=1)


@given(guards, channels, times)
def test_it_answers_only_an_older_state_of_a_running_dispute_of_the_same_session(guard, chain, now):
    verdict, state = decide(guard, chain, now=now), guard.held.state
    owed = chain.phase is ChannelPhase.DISPUTED and now <= chain.deadline and chain.epoch == state.epoch and chain.sequence < state.sequence
    assert owed == (verdict in (Verdict.ANSWER, Verdict.WAIT, Verdict.SPENT))


@given(guards, channels, times)
def test_a_first_answer_and_a_lost_one_are_never_put_off(guard, chain, now):
    disputed = chain.epoch << 40 | chain.sequence
    verdict = decide(guard, chain, now=now)
    if verdict in (Verdict.WAIT, Verdict.SPENT):
        assert guard.answers
        assert disputed >= max(guard.answers)


@given(guards, channels, times)
def test_a_session_is_over_when_the_chain_says_closed_or_a_later_one_and_never_otherwise(guard, chain, now):
    epoch = guard.held.state.epoch
    over = chain.epoch > epoch or (chain.epoch == epoch and chain.phase is ChannelPhase.CLOSED)
    assert over == (decide(guard, chain, now=now) is Verdict.OVER)


@given(guards, st.integers(0, 5))
def test_sending_one_version_again_is_still_one_answer(guard, times_more):
    once = answered(guard)
    again = once
    for _ in range(times_more):
        again = answered(again)
    assert once == again
    assert guard.held.state.version in once.answers
    assert len(once.answers) <= REMEMBERED


@given(st.lists(st.sampled_from(list(HELD.values())), min_size=1), st.lists(st.integers(0, 100), min_size=1))
def test_within_a_session_a_promise_is_never_made_shorter_and_answers_are_kept_and_the_next_begins_with_none(states, untils):
    guard = None
    for held, until in zip(states, untils, strict=False):
        before, guard = guard, renewed(guard, held, until=until)
        if before is not None and before.held.state.epoch == held.state.epoch:
            assert guard.until >= before.until
            assert guard.answers == before.answers
        else:
            assert guard.answers == ()
        guard = answered(guard)


class Period(RuleBasedStateMachine):
    """A dispute from its first second to its last: states arrive, blocks come, answers get lost, and two parties may collude."""

    @initialize(challenged=st.integers(0, 3), held=st.integers(1, 5))
    def begin(self, challenged, held):
        self.now, self.deadline = 0, PERIOD
        self.chain = challenged
        self.best_seen = challenged
        self.guard = Guard(held=HELD[1, held], until=10**12)
        self.sent = 0
        self.lost = 0

    @rule(more=st.integers(1, 4))
    def a_newer_state_arrives(self, more):
        sequence = min(9, self.guard.held.state.sequence + more)
        self.guard = renewed(self.guard, HELD[1, sequence], until=10**12)

    @rule(seconds=st.integers(1, PERIOD // 3))
    def time_passes(self, seconds):
        self.now += seconds

    @rule()
    def the_tower_looks(self):
        verdict = decide(self.guard, on_chain(self.chain, deadline=self.deadline), now=self.now)
        if verdict is Verdict.ANSWER:
            self.guard = answered(self.guard)
            self.before = self.chain
            self.chain = self.guard.held.state.sequence
            self.sent += 1

    @rule(others=st.integers(0, 9))
    def somebody_else_answers(self, others):
        self.chain = max(self.chain, others)

    @precondition(lambda self: self.sent > self.lost)
    @rule()
    def a_reorganisation_swallows_the_answer(self):
        self.chain = min(self.chain, self.before)
        self.lost += 1

    @invariant()
    def coin_is_bounded(self):
        if hasattr(self, "sent"):
            assert self.sent <= MAX_ANSWERS + self.lost

    @invariant()
    def after_a_look_in_time_the_cheaters_state_does_not_stand(self):
        if not hasattr(self, "sent") or self.now > self.deadline:
            return
        verdict = decide(self.guard, on_chain(self.chain, deadline=self.deadline), now=self.now)
        if verdict in (Verdict.WAIT, Verdict.SPENT):  # what stands is at least what was answered with
            assert (1 << 40 | self.chain) >= max(self.guard.answers)


TestPeriod = Period.TestCase


def test_an_improvement_waits_for_the_last_quarter_then_for_the_last_sixteenth_then_is_not_made():
    guard = answered(Guard(held=HELD[1, 2], until=0))
    newer = renewed(guard, HELD[1, 5], until=0)
    chain = on_chain(2, deadline=PERIOD)
    assert decide(newer, chain, now=PERIOD * 3 // 4 - 1) is Verdict.WAIT
    assert decide(newer, chain, now=PERIOD * 3 // 4) is Verdict.ANSWER
    last = renewed(answered(newer), HELD[1, 7], until=0)
    chain = on_chain(5, deadline=PERIOD)
    assert decide(last, chain, now=PERIOD * 15 // 16 - 1) is Verdict.WAIT
    assert decide(last, chain, now=PERIOD) is Verdict.ANSWER
    spent = renewed(answered(last), HELD[1, 9], until=0)
    assert decide(spent, on_chain(7, deadline=PERIOD), now=PERIOD) is Verdict.SPENT


def test_the_last_second_of_a_period_still_counts_and_the_next_does_not():
    guard = Guard(held=HELD[1, 5], until=0)
    assert decide(guard, on_chain(1, deadline=1000), now=1000) is Verdict.ANSWER
    assert decide(guard, on_chain(1, deadline=1000), now=1001) is Verdict.NOTHING


def test_a_promise_that_ran_out_does_not_stop_an_answer():
    assert decide(Guard(held=HELD[1, 5], until=0), on_chain(1), now=10) is Verdict.ANSWER
    assert dataclasses.replace(Guard(held=HELD[1, 5], until=0)).answers == ()
