"""netguard against real sockets on loopback."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.netguards import Fence, fence

from veilpod.agent import netguard
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


@pytest.mark.parametrize("fence_holds", [True, False])
async def test_a_first_look_counts_only_if_it_saw_isolation(standing: Fence, fence_holds: bool) -> None:
    look = netguard.FirstLook([standing.peer], [standing.canary if fence_holds else standing.peer], probe_seconds=0.2)
    seen = await look.isolated()
    assert (seen is not None) == fence_holds
    if seen is not None:
        assert (seen.allowed, seen.blocked) == (1, 1)


async def test_a_first_look_that_is_old_does_not_count(standing: Fence, monkeypatch: pytest.MonkeyPatch) -> None:
    look = netguard.FirstLook([standing.peer], [standing.canary], probe_seconds=0.2)
    monkeypatch.setattr(netguard, "_FRESH_SECONDS", 0.0)
    assert await look.isolated() is None


def test_the_container_leaves_evidence_one_word_and_its_code(standing: Fence, tmp_path: pathlib.Path) -> None:
    word, evidence = tmp_path / "word", tmp_path / "evidence"
    peer, canary = (f"{host}:{port}" for host, port in (standing.peer, standing.canary))
    arguments: dict[str, Any] = {"seconds": 3.0, "evidence": evidence, "termination_log": word}
    assert netguard.run(allow=[peer], canary=[canary], **arguments) == 0
    assert word.read_text() == "NetworkIsolated"
    assert json.loads(evidence.read_text()) == {"allowed": 1, "blocked": 1}
    arguments["seconds"] = 0.3
    assert netguard.run(allow=[peer], canary=[peer], **arguments) == 20
    assert netguard.run(allow=["relay.example"], canary=[canary], **arguments) == 22
    assert word.read_text() == "BadArguments"
