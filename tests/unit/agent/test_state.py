import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veilpod.agent import state
from veilpod.agent.state import Phase, State
from veilpod.errors import Refused

happened = st.lists(
    st.one_of(
        st.sampled_from(list(Phase)).map(lambda phase: ("reached", phase)),
        st.sampled_from(["ProgramFailed", "PeerLost"]).map(lambda code: ("failed", code)),
        st.just(("zeroised", None)),
    ),
    max_size=30,
)
COMMANDS = ["configure", "statement", "offer", "acceptance", "published", "channel", "credit", "release", "zeroise"]


def fold(events: list[tuple[str, object]]) -> list[State]:
    states = [State()]
    for kind, value in events:
        current = states[-1]
        try:
            if kind == "reached":
                current = state.reached(current, value)  # type: ignore[arg-type]
            elif kind == "failed":
                current = state.failed(current, str(value))
            else:
                current = state.zeroised(current)
        except ValueError:
            continue
        states.append(current)
    return states


@given(happened)
def test_a_life_never_goes_back_and_never_comes_back(events: list[tuple[str, object]]) -> None:
    states = fold(events)
    for before, after in itertools.pairwise(states):
        assert after.phase >= before.phase
        assert after.phase in (before.phase, before.phase + 1, Phase.RELEASED)
        assert not (before.zeroised and not after.zeroised)
        if before.failure:
            assert after.failure == before.failure  # the first failure counts
            assert after.phase in (before.phase, Phase.RELEASED)


@given(happened)
def test_after_zeroisation_only_zeroise_is_answered(events: list[tuple[str, object]]) -> None:
    for current in fold(events):
        for command in COMMANDS:
            if current.zeroised and command != "zeroise":
                with pytest.raises(Refused) as refused:
                    state.allows(current, command)
                assert refused.value.reason == "Zeroised"
        state.allows(current, "zeroise")


def test_no_acceptance_before_offers_and_no_peers_before_publication() -> None:
    for command, phase in [
        ("acceptance", Phase.READY),
        ("published", Phase.OFFERED),
        ("channel", Phase.ACCEPTED),
        ("offer", Phase.CONFIGURED),
    ]:
        with pytest.raises(Refused):
            state.allows(State(phase=phase), command)
        state.allows(State(phase=Phase(phase + 1)), command)
