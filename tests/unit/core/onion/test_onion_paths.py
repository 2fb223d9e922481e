import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.onion import entry, owner

from veilpod.core.ids import NodeId
from veilpod.core.onion.paths import choose_path, network
from veilpod.errors import CircuitFailed, InvalidInput, Refused
from veilpod.relay.keys import RelayKeys

NOW = time.time()
# Proofs are slow to make, so a pool of relays is made once: number n belongs to owner n % 6 and lies in network n % 4.
POOL = [entry(n, owner=owner(1 + n % 6), host=f"10.{n % 4}.0.{n}") for n in range(1, 25)]


def path(directory, hops=3, *, seed=1, **options):
    return choose_path(directory, hops=hops, now=NOW, chance=random.Random(seed).random, **options)


@given(st.sets(st.integers(0, 23), min_size=1), st.integers(3, 6), st.integers(), st.data())
def test_every_path_has_different_owners_or_is_refused(chosen, hops, seed, draw):
    directory = [POOL[index] for index in sorted(chosen)]
    ids = st.sampled_from([item.node_id for item in directory])
    last, guards, blame = (
        draw.draw(st.none() | ids),
        draw.draw(st.lists(ids, max_size=2)),
        draw.draw(st.dictionaries(ids, st.integers(1, 3))),
    )
    if len({item.owner for item in directory}) < hops:
        with pytest.raises(Refused) as caught:
            path(directory, hops, seed=seed, last=last, guards=guards, blame=blame)
        assert caught.value.reason == ("TooFewRelays" if len(directory) < hops else "NoDiversePath")
        return
    found = path(directory, hops, seed=seed, last=last, guards=guards, blame=blame)
    assert len(found) == hops
    assert len({hop.owner for hop in found}) == len({hop.node_id for hop in found}) == hops
    assert last is None or found[-1].node_id == last


@pytest.mark.parametrize("seed", range(20))
def test_different_networks_are_preferred(seed):
    found = path(POOL, 3, seed=seed)
    assert len({network(hop) for hop in found}) == 3


def test_one_network_is_enough_when_there_is_no_other():
    relays = [entry(n, host=f"10.96.0.{n}") for n in (1, 2, 3)]
    assert len(path(relays)) == 3


def test_relays_of_one_owner_are_a_path_only_within_a_cluster():
    relays = [entry(n, owner=owner(1)) for n in (1, 2, 3)]
    with pytest.raises(Refused) as caught:
        path(relays)
    assert caught.value.reason == "NoDiversePath"
    assert len({hop.node_id for hop in path(relays, in_cluster=True)}) == 3
    assert len(path(relays, 1, in_cluster=True)) == 1


def test_two_entries_with_one_identity_are_one_relay():
    keys = RelayKeys()
    relays = [entry(1, keys=keys), entry(2, keys=keys), entry(3)]
    with pytest.raises(Refused):
        path(relays)


@pytest.mark.parametrize(("hops", "in_cluster"), [(0, True), (0, False), (2, False), (9, False), (9, True)])
def test_a_path_is_never_shorter_or_longer_than_the_rules(hops, in_cluster):
    with pytest.raises(InvalidInput):
        path(POOL, hops, in_cluster=in_cluster)


def test_relays_with_an_old_heartbeat_are_not_used():
    old = [entry(n, updated_at=int(NOW) - 7200) for n in (1, 2, 3)]
    with pytest.raises(Refused) as caught:
        path([*old, entry(4), entry(5)])
    assert caught.value.reason == "TooFewRelays"
    with pytest.raises(CircuitFailed):
        path([*old, entry(4), entry(5), entry(6)], last=NodeId(1))


def test_a_clock_by_which_every_heartbeat_is_old_is_called_that():
    for last in (None, NodeId(1)):
        with pytest.raises(Refused) as caught:
            choose_path([entry(n) for n in (1, 2, 3)], hops=3, now=NOW + 7200, chance=random.Random(1).random, last=last)
        assert caught.value.reason == "ClockSkew"
    with pytest.raises(Refused) as caught:
        choose_path([entry(1)], hops=3, now=NOW + 7200, chance=random.Random(1).random)
    assert caught.value.reason == "TooFewRelays"


def test_a_meeting_relay_that_nobody_lists_is_worth_another_try_later():
    with pytest.raises(CircuitFailed):
        path(POOL, last=NodeId(99))


def test_the_pinned_guard_is_first_unless_it_is_the_meeting_relay():
    guard = POOL[0].node_id
    assert all(path(POOL, seed=seed, guards=[guard])[0].node_id == guard for seed in range(10))
    found = path(POOL, guards=[guard], last=guard)
    assert found[-1].node_id == guard
    assert found[0].node_id != guard


def test_the_least_blamed_relays_are_taken_while_there_is_a_path_of_them():
    relays = [entry(n) for n in (1, 2, 3, 4)]
    for seed in range(10):
        assert NodeId(2) not in {hop.node_id for hop in path(relays, seed=seed, blame={NodeId(2): 1})}
        assert NodeId(2) not in {hop.node_id for hop in path(relays, seed=seed, blame={NodeId(2): 2, NodeId(1): 1})}
        assert path(relays, seed=seed, blame={NodeId(2): 2}, last=NodeId(2))[-1].node_id == 2
    assert len(path(relays[:3], blame={NodeId(2): 9})) == 3


def test_relays_that_do_not_exit_are_no_last_hops():
    relays = [entry(n) for n in (1, 2, 3, 4)]
    for seed in range(20):
        assert path(relays, seed=seed, not_last=[NodeId(1), NodeId(2)], guards=[NodeId(3)])[-1].node_id in (3, 4)
    with pytest.raises(Refused):
        path(relays, not_last=[NodeId(n) for n in (1, 2, 3, 4)])


def test_every_relay_gets_its_turn_in_every_place():
    relays = [entry(n) for n in range(1, 6)]
    seen = {(place, hop.node_id) for seed in range(300) for place, hop in enumerate(path(relays, seed=seed))}
    assert len(seen) == 15
