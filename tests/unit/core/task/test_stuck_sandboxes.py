"""A sandbox whose containers cannot begin: said while it waits, and the reason when time is over."""

import dataclasses

import pytest
from tests.unit.core.task.test_progress import until
from tests.unit.core.task.world import World

from veilpod.core.entities import TaskPhase
from veilpod.core.task.conditions import Type
from veilpod.core.task.decide import decide_assignment
from veilpod.core.task.facts import AgentSeen, Failure
from veilpod.core.task.pods import STUCK
from veilpod.core.task.remedies import remedy
from veilpod.core.task.snapshot import PodSeen, ServerSnapshot

CODES = sorted({*STUCK.values(), "Unschedulable"})


def stuck_in(world: World, code: str) -> ServerSnapshot:
    seen = world.server_sees(world.servers[0])
    assert isinstance(seen.pods, tuple)
    return dataclasses.replace(seen, pods=tuple(stuck(pod, code) for pod in seen.pods))


def stuck(pod: PodSeen, code: str) -> PodSeen:
    return dataclasses.replace(pod, stuck=code)


@pytest.mark.parametrize("code", CODES)
def test_what_keeps_a_sandbox_from_beginning_is_shown_with_what_to_do(code: str) -> None:
    world = World()
    until(world, lambda: bool(world.servers[0].pods))
    claim = decide_assignment(stuck_in(world, code), 0).claims[Type.NETWORK_ISOLATED]
    assert (claim.reason, claim.message) == (code, remedy(code))
    assert claim.message


def test_an_image_that_never_came_is_the_failure_and_no_deadline() -> None:
    world = World()
    until(world, lambda: world.phase is TaskPhase.RUNNING)
    server = world.servers[0]
    assert world.terms is not None
    for agent, code in (
        (AgentSeen(verified=True, failed="ProgramNotStarted"), "ImageUnavailable"),
        (AgentSeen(verified=True, started=True, failed="ProgramTimeout"), "ProgramTimeout"),
        (AgentSeen(verified=True), "ImageUnavailable"),
        (AgentSeen(verified=True, started=True), "DeadlineExceeded"),
    ):
        now = world.clock if agent.failed else world.terms.complete_by + 1
        seen = dataclasses.replace(stuck_in(world, "ImageUnavailable"), facts=dataclasses.replace(server.facts, agent=agent), chain_now=now)
        recorded = [effect.failure for effect in decide_assignment(seen, 0).effects if hasattr(effect, "failure")]
        assert recorded == [Failure(stage="Computed", code=code)]


def test_a_stuck_container_is_given_time() -> None:
    world = World()
    until(world, lambda: bool(world.servers[0].pods))
    assert not any(hasattr(effect, "failure") for effect in decide_assignment(stuck_in(world, "ImageUnavailable"), 0).effects)
