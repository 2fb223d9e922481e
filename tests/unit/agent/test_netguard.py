"""netguard against real sockets on loopback."""

from collections.abc import Iterator

import pytest
from tests.support.netguards import Fence, fence

from veilpod.agent import first_look, netguard
from veilpod.agent.first_look import FirstLook
from veilpod.errors import Refused


@pytest.fixture
def standing() -> Iterator[Fence]:
    with fence() as built:
        yield built


async def test_isolated_is_a_peer_that_answers_and_a_canary_that_does_not(standing: Fence) -> None:
    seen = await netguard.observe([standing.peer], [standing.canary], probe_seconds=0.2)
    assert (seen.allowed, seen.blocked, seen.leaks, seen.verdict) == (1, 1, 0, "NetworkIsolated")


async def test_a_canary_that_accepts_or_refuses_was_reached(standing: Fence) -> None:
    for canary in (standing.peer, ("127.0.0.1", 1)):
        seen = await netguard.observe([standing.peer], [standing.canary, canary], probe_seconds=0.2)
        assert seen.verdict == "CanaryReachable"


async def test_a_network_in_which_nothing_works_yet_proves_nothing(standing: Fence) -> None:
    assert (await netguard.observe([standing.canary], [standing.canary], probe_seconds=0.2)).verdict == "PeerUnreachable"


async def test_without_canaries_nothing_is_proved(standing: Fence) -> None:
    assert (await netguard.observe([standing.peer], [], probe_seconds=0.2)).verdict == "CanaryReachable"


async def test_it_waits_for_a_fence_that_comes_up_late() -> None:
    late = Fence(up=False)  # the first probes get through and fill the canary's queue
    try:
        assert (await netguard.observe([late.peer], [late.canary], probe_seconds=0.2)).verdict == "CanaryReachable"
        seen = await netguard.wait_isolated([late.peer], [late.canary], seconds=5, probe_seconds=0.2)
        assert seen.verdict == "NetworkIsolated"
    finally:
        late.close()


@pytest.mark.parametrize("reason", ["CanaryReachable", "PeerUnreachable"])
async def test_it_refuses_with_the_last_verdict(standing: Fence, reason: str) -> None:
    allow, canary = (standing.peer, standing.peer) if reason == "CanaryReachable" else (standing.canary, standing.canary)
    with pytest.raises(Refused) as refused:
        await netguard.wait_isolated([allow], [canary], seconds=0.6, probe_seconds=0.1)
    assert refused.value.reason == reason


async def test_a_first_look_passes_and_is_good_for_keys_for_a_while(standing: Fence, monkeypatch: pytest.MonkeyPatch) -> None:
    look = FirstLook([standing.peer], [standing.canary], seconds=5, probe_seconds=0.2)
    assert look.recent() is None
    await look.passed()
    assert look.recent() == netguard.Observation(allowed=1, blocked=1, leaks=0)
    monkeypatch.setattr(first_look, "_FRESH_SECONDS", 0.0)
    assert look.recent() is None


async def test_a_first_look_that_sees_no_fence_refuses(standing: Fence) -> None:
    look = FirstLook([standing.peer], [standing.peer], seconds=0.3, probe_seconds=0.1)
    with pytest.raises(Refused) as refused:
        await look.passed()
    assert refused.value.reason == "CanaryReachable"
    assert look.recent() is None
