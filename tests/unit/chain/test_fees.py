from hypothesis import given
from hypothesis import strategies as st

from veilpod.chain.fees import Fees, raised, suggest

wei = st.integers(0, 10**12)
bids = st.builds(lambda base, tip: suggest(base_fee=base, tip=tip), wei, wei)


@given(bids, bids)
def test_a_raised_bid_replaces_the_old_one_at_every_node(old, now):
    new = raised(old, now)
    if new is not None:
        assert new.max_fee * 10 >= old.max_fee * 11
        assert new.priority_fee * 10 >= old.priority_fee * 11
        assert new.max_fee > old.max_fee
        assert new.priority_fee > old.priority_fee
        assert new.max_fee >= new.priority_fee
        assert new.max_fee >= now.max_fee


@given(bids)
def test_a_bid_stops_rising_soon_after_twice_the_going_price(now):
    bid, steps = now, 0
    while (higher := raised(bid, now)) is not None:
        bid, steps = higher, steps + 1
        assert steps <= 12
    assert bid.max_fee <= 3 * now.max_fee + 20
    assert bid.priority_fee <= 3 * now.priority_fee + 20


def test_the_base_fee_may_double_before_a_bid_is_too_low():
    assert suggest(base_fee=7, tip=2) == Fees(max_fee=16, priority_fee=2)
