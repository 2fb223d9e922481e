"""Conditions never vanish, move their time only with their status, and keep the law of the CRDs."""

from hypothesis import given
from hypothesis import strategies as st

from veilpod.core.task.conditions import NOT_PROMISED, STICKY, Claim, Status, Type, is_true, merge, no, parse, phase, unknown, yes

claims = st.dictionaries(st.sampled_from(list(Type)), st.sampled_from([yes("A"), no("B"), unknown("C")]), max_size=6)


def test_the_time_moves_only_when_the_status_does() -> None:
    first = merge((), {Type.COMPUTED: no("Waiting")}, now=0, generation=1)
    second = merge(first, {Type.COMPUTED: no("StillWaiting")}, now=60, generation=2)
    third = merge(second, {Type.COMPUTED: yes("Done")}, now=120, generation=2)
    assert [c[0].since for c in (first, second, third)] == ["1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "1970-01-01T00:02:00Z"]
    assert second[0].reason == "StillWaiting"
    assert second[0].generation == 2


def test_what_the_status_holds_reads_back() -> None:
    made = merge((), {Type.REQUESTED: yes("Requested", "with a message")}, now=5, generation=3)
    assert parse([condition.to_json() for condition in made]) == made
    assert parse([{"type": "OfANewerVersion", "status": "True", "reason": "R", "lastTransitionTime": "x"}]) == ()


@given(st.lists(claims, max_size=8))
def test_under_any_claims_the_law_holds(history) -> None:
    standing = ()
    for now, step in enumerate(history):
        before, standing = standing, merge(standing, step, now=now, generation=1)
        assert {c.type for c in before} <= {c.type for c in standing}
        for kind in STICKY:
            assert not is_true(before, kind) or is_true(standing, kind)
        known = {c.type: c for c in standing}
        if is_true(standing, Type.SETTLED) and not is_true(before, Type.SETTLED) and Type.SANDBOX_DESTROYED in known:
            assert is_true(standing, Type.SANDBOX_DESTROYED)
        if is_true(standing, Type.KEY_PUBLISHED) and not is_true(before, Type.KEY_PUBLISHED):
            for other in (Type.NETWORK_ISOLATED, Type.HOST_ACCESS_DENIED):
                assert other not in known or known[other].status is Status.TRUE


def test_a_class_that_never_promised_to_shut_the_host_out_does_not_hold_the_key_back() -> None:
    def published(claim: Claim) -> bool:
        claims = {Type.NETWORK_ISOLATED: yes("R"), Type.HOST_ACCESS_DENIED: claim, Type.KEY_PUBLISHED: yes("R")}
        return is_true(merge((), claims, now=0, generation=1), Type.KEY_PUBLISHED)

    assert published(no(NOT_PROMISED))
    assert not published(no("PolicyMissing"))


def test_the_phase_is_computed() -> None:
    def of(*true: Type) -> str:
        return phase(merge((), dict.fromkeys(true, yes("R")), now=0, generation=1))

    assert of() == "Pending"
    assert of(Type.REQUESTED, Type.SCHEDULED) == "Preparing"
    assert of(Type.REQUESTED, Type.SANDBOX_DESTROYED, Type.SETTLED) == "Settled"
    assert of(Type.REQUESTED, Type.FAILED) == "Failing"
    assert of(Type.REQUESTED, Type.SANDBOX_DESTROYED, Type.SETTLED, Type.FAILED) == "Failed"
