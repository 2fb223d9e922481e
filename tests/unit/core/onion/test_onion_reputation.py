import collections
import itertools
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.onion import entry, owner

from veilpod.core.ids import NodeId
from veilpod.core.onion.paths import CANDIDATES, choose_path, weighted_order
from veilpod.core.onion.reputation import HALF_LIFE, SHARE, Reputation, capped

NOW = time.time()
POOL = [entry(n) for n in range(1, 13)]
OWNED = [entry(n, owner=owner(1 + n % 6)) for n in range(1, 13)]  # two of each owner
IDS = st.integers(1, 12).map(NodeId)
OUTCOMES = st.lists(st.tuples(st.sampled_from(["worked", "failed"]), st.lists(IDS, min_size=2, max_size=2, unique=True)), max_size=30)


def told(outcomes) -> Reputation:
    reputation = Reputation()
    for second, (kind, nodes) in enumerate(outcomes):
        if kind == "worked":
            reputation.worked(nodes, now=second)
        else:
            reputation.failed((nodes[0], nodes[1]), now=second)
    return reputation


def shares(reputation: Reputation, entries, *, now: float) -> dict[int, float]:
    weights = reputation.weights(entries, now=now)
    return {relay.node_id: weight / sum(weights) for relay, weight in zip(entries, weights, strict=True)}


# --- the draw


def test_relays_are_drawn_as_often_as_they_weigh():
    weights, chance = [1.0, 2.0, 3.0, 6.0], random.Random(7)
    draws = 20_000
    first = collections.Counter(weighted_order(POOL[:4], weights, chance.random)[0].node_id for _ in range(draws))
    expected = [draws * weight / sum(weights) for weight in weights]
    chi_square = sum((first[relay.node_id] - want) ** 2 / want for relay, want in zip(POOL, expected, strict=False))
    assert chi_square < 16.27  # three degrees of freedom, one run in a thousand


def test_the_second_is_drawn_by_weight_among_those_left():
    weights, chance = [1.0, 2.0, 3.0, 6.0], random.Random(8)
    draws = 20_000
    pairs = collections.Counter(tuple(each.node_id for each in weighted_order(POOL[:4], weights, chance.random)[:2]) for _ in range(draws))
    chi_square = 0.0
    for a, b in itertools.permutations(range(4), 2):
        want = draws * weights[a] / 12 * weights[b] / (12 - weights[a])
        chi_square += (pairs[POOL[a].node_id, POOL[b].node_id] - want) ** 2 / want
    assert chi_square < 31.26  # eleven degrees of freedom, one run in a thousand


@given(st.lists(st.floats(1e-9, 1e9), min_size=12, max_size=12), st.integers())
def test_a_weighted_order_leaves_nobody_out(weights, seed):
    ordered = weighted_order(POOL, weights, random.Random(seed).random)
    assert sorted(relay.node_id for relay in ordered) == list(range(1, 13))


# --- claims


@given(st.lists(st.integers(0, 2**24 - 1), min_size=1, max_size=60))
def test_no_claim_brings_more_than_its_share(claims):
    bandwidths = capped(claims)
    assert all(each > 0 for each in bandwidths)
    assert max(bandwidths) <= SHARE * sum(bandwidths) / len(bandwidths) * (1 + 1e-9)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=50), st.integers(0, 10), st.integers(1, 2**24 - 1))
def test_an_attackers_relays_draw_no_more_than_their_number_times_the_share(honest, attackers, claim):
    bandwidths = capped([claim] * attackers + honest)
    assert sum(bandwidths[:attackers]) <= (SHARE * attackers / len(bandwidths) + 1e-9) * sum(bandwidths)


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=40))
def test_who_claims_more_never_weighs_less(claims):
    claimed = [(claim, bandwidth) for claim, bandwidth in zip(claims, capped(claims), strict=True) if claim]
    assert all(a[1] <= b[1] for a, b in itertools.pairwise(sorted(claimed)))


def test_moderate_claims_are_taken_as_they_are():
    assert capped([10, 20, 15, 12]) == [10, 20, 15, 12]


def test_where_only_one_claims_anything_all_weigh_the_same():
    assert len(set(capped([0, 0, 2**24 - 1, 0]))) == 1


def test_a_relay_of_twice_the_bandwidth_is_on_twice_the_circuits():
    slow, fast = 10_240, 20_480
    relays = [entry(n, capacity=fast if n % 4 == 0 else slow) for n in range(1, 61)]
    reputation, chance = Reputation(), random.Random(9)
    used: collections.Counter[int] = collections.Counter()
    for _ in range(4000):
        path = choose_path(relays, hops=3, now=NOW, chance=chance.random, weigh=lambda usable: reputation.weights(usable, now=0))
        used.update(relay.capacity for relay in path)
    # A quarter of the relays is fast; no path has a relay twice, which costs the fast ones a little.
    assert 1.85 < 3 * used[fast] / used[slow] < 2.05


def test_nobody_listed_is_nobody_weighed():
    assert capped([]) == []


# --- trust


@given(OUTCOMES, st.integers(0, 10_000))
def test_every_relay_keeps_a_chance_and_none_is_certain(outcomes, later):
    reputation = told(outcomes)
    assert all(0 < reputation.trust(relay.node_id, now=later) < 1 for relay in POOL)
    assert all(weight > 0 for weight in reputation.weights(POOL, now=later))


@given(OUTCOMES, IDS, IDS)
def test_a_failure_never_raises_trust_and_the_silent_end_pays_more(outcomes, near, far):
    reputation, now = told(outcomes), len(outcomes)
    before = reputation.trust(far, now=now)
    reputation.failed((0, far), now=now)
    assert reputation.trust(far, now=now) < before
    fresh = Reputation()
    fresh.failed((1, 2), now=0)
    assert fresh.trust(NodeId(2), now=0) < fresh.trust(NodeId(1), now=0) < fresh.trust(NodeId(3), now=0)


@given(OUTCOMES)
def test_time_heals_everything(outcomes):
    reputation, much_later = told(outcomes), len(outcomes) + 20 * HALF_LIFE
    assert all(reputation.trust(relay.node_id, now=much_later) == pytest.approx(0.9, abs=0.01) for relay in POOL)


def test_a_relay_that_fails_is_avoided_and_comes_back():
    reputation = Reputation()
    fair = shares(reputation, POOL, now=0)[5]
    reputation.failed((0, 5), now=0)
    assert shares(reputation, POOL, now=0)[5] < fair / 10
    reputation.failed((0, 5), now=1)
    assert shares(reputation, POOL, now=1)[5] < fair / 25
    assert shares(reputation, POOL, now=10 * HALF_LIFE)[5] > fair * 0.95


def test_good_deeds_cannot_be_saved_up():
    reputation = Reputation()
    for second in range(1000):
        reputation.worked([NodeId(5)], now=second)
    for _ in range(5):
        reputation.failed((0, 5), now=1000)
    assert shares(reputation, POOL, now=1000)[5] < 1 / len(POOL) / 20


def test_an_old_friend_is_not_drawn_much_more_often_than_a_newcomer():
    reputation = Reputation()
    for second in range(100):
        reputation.worked([NodeId(5)], now=second)
    drawn = shares(reputation, POOL, now=100)
    assert 1 < drawn[5] / drawn[6] < 1.5


def test_a_clock_that_goes_back_changes_nothing():
    reputation = Reputation()
    reputation.failed((0, 5), now=100)
    assert reputation.trust(NodeId(5), now=50) == reputation.trust(NodeId(5), now=100)


# --- predictions


def test_slow_relays_are_found_out_and_the_quickest_of_a_few_paths_is_taken():
    chance, reputation = random.Random(3), Reputation()
    slow = {NodeId(2), NodeId(7)}

    def path(**options):
        return [relay.node_id for relay in choose_path(POOL, hops=3, now=NOW, chance=chance.random, **options)]

    for _ in range(400):
        used = path()
        reputation.built(used, seconds=sum(0.5 if node in slow else 0.1 for node in used) * chance.uniform(0.8, 1.2))
    assert reputation.predict([NodeId(2)]) > 2 * reputation.predict([NodeId(1)])
    used = collections.Counter(itertools.chain.from_iterable(path(predict=reputation.predict) for _ in range(400)))
    assert sum(used[node] for node in slow) < 400 * 3 * 2 / 12 / 10
    assert len(used) >= 10


def test_a_relay_that_was_never_measured_counts_like_the_mean():
    reputation = Reputation()
    assert not reputation.measured
    reputation.built([NodeId(1)], seconds=1.0)
    reputation.built([NodeId(2)], seconds=3.0)
    assert reputation.measured
    mean = (reputation.predict([NodeId(1)]) + reputation.predict([NodeId(2)])) / 2
    assert reputation.predict([NodeId(9)]) == pytest.approx(mean)


def test_the_best_of_a_few_is_no_more_than_so_many_times_as_likely():
    chance = random.Random(4)
    used: collections.Counter[NodeId] = collections.Counter()
    for _ in range(2000):
        # The attacker's relay 1 is as quick as can be.
        used[choose_path(POOL, hops=3, now=NOW, chance=chance.random, predict=lambda path: float(1 not in path))[0].node_id] += 1
    assert used[NodeId(1)] / 2000 < CANDIDATES / len(POOL)


# --- all together


@given(OUTCOMES, st.integers(3, 6), st.integers(), st.lists(IDS, max_size=2), st.lists(st.integers(0, 2**24 - 1), min_size=12, max_size=12))
def test_whatever_was_learnt_or_claimed_no_two_hops_have_one_owner(outcomes, hops, seed, guards, claims):
    reputation = told(outcomes)
    reputation.built([NodeId(1), NodeId(2), NodeId(3)], seconds=0.1)
    bandwidths = dict(zip((relay.node_id for relay in OWNED), capped(claims), strict=True))
    path = choose_path(
        OWNED,
        hops=hops,
        now=NOW,
        chance=random.Random(seed).random,
        weigh=lambda usable: [bandwidths[relay.node_id] * reputation.trust(relay.node_id, now=0) for relay in usable],
        predict=reputation.predict,
        guards=guards,
    )
    assert len({hop.owner for hop in path}) == len({hop.node_id for hop in path}) == hops
