"""What two ends must agree on without a word: places and proofs."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veilpod.core.ids import NodeId
from veilpod.core.onion.geometry import COOKIE
from veilpod.core.onion.legs import PLACES, pack_link, places, verify_link
from veilpod.errors import ProtocolViolation

RELAYS = st.lists(st.integers(1, 2**32 - 1).map(NodeId), unique=True, min_size=PLACES + 1, max_size=40)


@given(RELAYS, st.randoms(), st.binary(min_size=COOKIE, max_size=COOKIE), st.binary(min_size=32, max_size=32))
def test_both_ends_look_at_the_same_places_whatever_the_order_of_their_directories(relays, chance, cookie, key):
    shuffled = list(relays)
    chance.shuffle(shuffled)
    assert places(relays, cookie=cookie, service_key=key) == places(shuffled, cookie=cookie, service_key=key)


@given(RELAYS, st.binary(min_size=COOKIE, max_size=COOKIE), st.binary(min_size=32, max_size=32))
def test_a_relay_that_one_end_does_not_know_moves_the_others_up_and_nothing_else(relays, cookie, key):
    whole = places(relays, cookie=cookie, service_key=key)
    without = places([relay for relay in relays if relay != whole[0].relay], cookie=cookie, service_key=key)
    assert without[: PLACES - 1] == whole[1:]


def test_cookies_of_one_meeting_cannot_be_linked():
    relays = [NodeId(number) for number in range(1, 9)]
    one, other = (places(relays, cookie=os.urandom(20), service_key=bytes(32), count=8) for _ in range(2))
    cookies = [place.cookie for place in one + other]
    assert len(set(cookies)) == len(cookies)


@pytest.mark.parametrize("change", ["key", "session", "leg", "length"])
def test_a_link_holds_for_one_session_and_one_leg(change):
    key, session, leg = b"k" * 32, b"s" * 32, b"l" * 32
    good = pack_link(session, key=key, leg=leg)
    verify_link(good, key=key, leg=leg)
    bad = {
        "key": (good, b"x" * 32, leg),
        "session": (b"x" * 32 + good[32:], key, leg),
        "leg": (good, key, b"x" * 32),
        "length": (good[:-1], key, leg),
    }[change]
    with pytest.raises(ProtocolViolation):
        verify_link(bad[0], key=bad[1], leg=bad[2])
