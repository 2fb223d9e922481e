"""The cap holds over any stretch of a period, through crashes, and whatever is under way counts in full."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veilpod.chain.outbox import Settled
from veilpod.errors import InvalidInput, Refused
from veilpod.watchtower.purse import GAS, Purse, check_cap

FEE = 100
WORST = GAS * FEE


def line(fee, *, intent="respond:1", sender="0xA"):
    return Settled(
        hash="0x", nonce=0, sender=sender, purpose="", intent=intent, block=1, succeeded=True, gas_used=1, fee=fee, value=0
    )  # fmt: skip


class World:
    """A sender's books, and the purse that reads them."""

    def __init__(self, directory, *, cap, period=1000):
        self.file, self.cap, self.period = directory / "spent.json", cap, period
        self.history, self.pending = [], set()
        self.restart()

    def restart(self):
        self.purse = Purse(
            self.file,
            cap=self.cap,
            period=self.period,
            fee_ceiling=FEE,
            history=lambda: self.history,
            pending=lambda: self.pending,
        )

    def allows(self, intent, now):
        try:
            with self.purse.reserve(intent, now):
                return True
        except Refused:
            return False


def test_a_cap_below_one_answer_is_a_mistake_of_a_person():
    check_cap(WORST, FEE)
    with pytest.raises(InvalidInput) as caught:
        check_cap(WORST - 1, FEE)
    assert caught.value.reason == "CapTooLow"


def test_two_answers_do_not_share_one_reservation(tmp_path):
    world = World(tmp_path, cap=2 * WORST - 1)
    with world.purse.reserve("respond:1", 0):
        with pytest.raises(Refused, match="raise the cap"):
            world.purse.reserve("respond:2", 0).__enter__()
        assert not world.allows("respond:2", 0)
        assert world.allows("respond:1", 0), "the same answer needs nothing more"
    assert world.allows("respond:2", 0)


def test_what_has_left_counts_in_full_until_it_is_settled_even_after_a_restart(tmp_path):
    world = World(tmp_path, cap=2 * WORST - 1)
    world.pending = {"respond:1"}
    world.restart()
    assert not world.allows("respond:2", 0)
    assert world.allows("respond:1", 0)
    world.pending, world.history = set(), [line(5)]
    assert world.allows("respond:2", 0)
    assert world.purse.spent(0) == 5


def test_what_was_spent_is_known_after_a_restart_and_forgotten_after_a_period(tmp_path):
    world = World(tmp_path, cap=WORST + 10)
    world.history = [line(11)]
    assert not world.allows("respond:2", 50)
    world.restart()
    assert not world.allows("respond:2", 1049)
    assert world.allows("respond:2", 1050)


def test_entering_something_new_forgets_nothing_of_the_period(tmp_path):
    world = World(tmp_path, cap=WORST + 10)
    for now in (0, 400, 999):
        world.history.append(line(4))
        world.purse.count(now)
    assert world.purse.spent(999) == 12
    assert world.purse.spent(1000) == 8
    world.restart()
    assert world.purse.spent(1000) == 8


def test_a_crash_before_it_was_entered_counts_it_when_it_is_found(tmp_path):
    world = World(tmp_path, cap=WORST + 10)
    world.history = [line(11)]  # settled, and the process ended before `count`
    world.restart()
    assert not world.allows("respond:2", 7)


def test_another_key_begins_its_own_history_and_what_the_old_one_spent_stays_spent(tmp_path):
    world = World(tmp_path, cap=WORST + 10)
    world.history = [line(6)]
    world.purse.count(0)
    world.history = [line(3, sender="0xB")]
    world.restart()
    world.purse.count(1)
    assert world.purse.spent(1) == 9


def test_an_unreadable_account_stops_the_tower_rather_than_the_cap(tmp_path):
    (tmp_path / "spent.json").write_text("{")
    with pytest.raises(InvalidInput) as caught:
        World(tmp_path, cap=WORST)
    assert caught.value.reason == "StateUnreadable"


@settings(deadline=None)  # it writes to a disk
@given(
    steps=st.lists(st.tuples(st.integers(0, 400), st.integers(0, WORST), st.booleans()), max_size=40),
    cap=st.integers(WORST, 4 * WORST),
)
def test_over_any_period_no_more_than_the_cap_is_spent(tmp_path_factory, steps, cap):
    world = World(tmp_path_factory.mktemp("purse"), cap=cap)
    now, spent = 0, []
    for number, (seconds, fee, restart) in enumerate(steps):
        now += seconds
        if restart:
            world.restart()
        if world.allows(f"respond:{number}", now):
            world.history.append(line(fee))  # sent and settled
            world.purse.count(now)
            spent.append((now, fee))
        assert sum(f for at, f in spent if at > now - world.period) <= cap
