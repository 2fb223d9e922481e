import pytest
from hypothesis import given
from hypothesis import strategies as st

from veilpod.core.onion.relay_status import Replica, replicas_of, status_of

NOW = 1_790_000_000
READY, REGISTERED = ["Serving", "PodPending", "Draining", "RelayUnavailable"], ["Listed", "Registering", "Suspended", "ChainUnavailable"]
SERVING = {"ready": "Serving", "registered": "Listed"}

listed = st.tuples(st.integers(1, 1000), st.integers(1, 9)) | st.just((None, None))
replicas = st.builds(
    lambda ordinal, node, ready, registered, since: Replica(
        ordinal=ordinal, ready=ready, registered=registered, node_id=node[0], key_epoch=node[1], leaving_since=since
    ),
    st.integers(0, 15), listed, st.sampled_from(READY), st.sampled_from(REGISTERED), st.none() | st.integers(NOW, NOW + 9999),
)  # fmt: skip
sets = st.lists(replicas, max_size=16, unique_by=lambda item: item.ordinal)


def conditions(status):
    return {item["type"]: (item["status"], item["reason"], item["message"]) for item in status["conditions"]}


@given(sets)
def test_what_was_seen_of_replicas_is_read_as_it_was_written(seen):
    status = status_of({}, seen, now=NOW, generation=1)
    assert replicas_of(status) == {item.ordinal: item for item in seen}
    assert status["replicaCount"] == len(seen)


@given(sets, sets)
def test_a_condition_that_was_there_stays_and_so_does_the_first_node(before, after):
    old = status_of({}, before, now=NOW, generation=1)
    new = status_of(old, after, now=NOW + 60, generation=2)
    assert conditions(old).keys() <= conditions(new).keys()
    assert {"nodeId", "keyEpoch"} & old.keys() <= new.keys()


@given(sets)
def test_a_relay_serves_only_when_all_that_stay_do(seen):
    stay = [item for item in seen if item.leaving_since is None] or seen
    serves = bool(stay) and all((item.ready, item.registered) == ("Serving", "Listed") for item in stay)
    assert (status_of({}, seen, now=NOW, generation=1)["phase"] == "Serving") == serves


def test_a_condition_keeps_its_time_until_its_status_changes():
    first = status_of({}, [Replica(ordinal=0)], now=NOW, generation=1)
    assert (first["phase"], "nodeId" in first) == ("Pending", False)
    same = status_of(first, [Replica(ordinal=0, ready="Draining")], now=NOW + 60, generation=2)
    assert same["conditions"][0]["lastTransitionTime"] == first["conditions"][0]["lastTransitionTime"]
    serving = status_of(same, [Replica(ordinal=0, node_id=7, key_epoch=1, **SERVING)], now=NOW + 120, generation=2)
    assert (serving["phase"], serving["nodeId"], serving["keyEpoch"]) == ("Serving", 7, 1)
    assert serving["conditions"][0]["lastTransitionTime"] != first["conditions"][0]["lastTransitionTime"]
    lost = Replica(ordinal=0, ready="Serving", registered="ChainUnavailable", node_id=7, key_epoch=1)
    assert status_of(serving, [lost], now=NOW + 180, generation=2)["phase"] == "Unknown"


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ({"ready": "Serving", "registered": "Listed"}, ("True", "Serving", "")),
        ({"ready": "PodPending", "registered": "Listed"}, ("False", "PodPending", "replica 1: the relay's pod is not running yet")),
        ({"ready": "Draining", "registered": "Listed", "leaving_since": NOW}, ("True", "Serving", "")),
    ],
)
def test_ready_names_the_worst_of_the_replicas_that_stay(second, expected):
    seen = [Replica(ordinal=0, **SERVING), Replica(ordinal=1, **second)]
    assert conditions(status_of({}, seen, now=NOW, generation=1))["Ready"] == expected


def test_a_draining_relay_says_what_ends_it():
    stays = status_of({}, [Replica(ordinal=0, ready="Draining", registered="Listed")], now=NOW, generation=1)
    goes = status_of({}, [Replica(ordinal=0, ready="Draining", registered="Listed", leaving_since=NOW)], now=NOW, generation=1)
    assert "set draining to false" in conditions(stays)["Ready"][2]
    assert "it goes when" in conditions(goes)["Ready"][2]
