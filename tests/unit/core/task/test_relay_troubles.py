"""Relays that are missing, of too few owners, or silent: said early and with a remedy, waited for, and the reason when time is over."""

import dataclasses

import pytest
from tests.unit.core.task.test_progress import run, until
from tests.unit.core.task.world import World

from veilpod.core.entities import TaskPhase
from veilpod.core.onion.trouble import TROUBLES
from veilpod.core.task import plan as do
from veilpod.core.task.agent_events import fold
from veilpod.core.task.conditions import Condition, Status, Type
from veilpod.core.task.decide import decide_assignment
from veilpod.core.task.facts import AgentSeen, parse_facts
from veilpod.core.task.remedies import remedy
from veilpod.core.task.snapshot import Refusal
from veilpod.errors import ProtocolViolation

TOO_FEW = Refusal(reason="TooFewRelays", message="2 usable relays where a circuit needs 3: add some or wait for their heartbeats")


def condition(world: World, kind: Type) -> Condition:
    return next(found for found in world.conditions if found.type is kind)


def test_nothing_is_requested_while_there_is_no_path_and_the_task_goes_on_once_there_is() -> None:
    world = World()
    world.relays = TOO_FEW
    for _ in range(20):
        world.turn(5)
    assert world.phase is TaskPhase.NONE
    assert (condition(world, Type.REQUESTED).reason, condition(world, Type.REQUESTED).message) == (TOO_FEW.reason, TOO_FEW.message)
    world.relays = None
    run(world)
    assert world.phase is TaskPhase.COMPLETED


def test_a_directory_that_shrinks_before_servers_are_engaged_is_waited_for_and_then_the_reason() -> None:
    world = World()
    until(world, lambda: world.phase is TaskPhase.REQUESTED)
    world.relays = TOO_FEW
    world.turn(1)
    assert condition(world, Type.SCHEDULED).reason == "TooFewRelays"
    run(world)
    assert world.failure is not None
    assert world.failure.code == "TooFewRelays"
    assert not any(server.facts.pods for server in world.servers)
    failed = condition(world, Type.FAILED)
    assert (failed.reason, failed.status) == ("TooFewRelays", Status.TRUE)
    assert remedy("TooFewRelays") in failed.message


def test_no_sandbox_is_made_that_nobody_could_reach() -> None:
    world = World()
    until(world, lambda: world.phase is TaskPhase.ASSIGNED)
    world.relays = TOO_FEW
    for server in world.servers:
        server.pods.clear()
        server.keep(incarnation=0, pods=())
    plan = decide_assignment(world.server_sees(world.servers[0]), 0)
    assert not {"CreatePod", "BeginIncarnation"} & {type(effect).__name__ for effect in plan.effects}
    assert plan.claims[Type.SANDBOX_READY].reason == "TooFewRelays"
    world.relays = None
    run(world)
    assert world.phase is TaskPhase.COMPLETED


def test_an_agent_in_trouble_is_told_the_directory_again_and_its_trouble_is_shown() -> None:
    world = World()
    world.trouble = "RelaysUnreachable"
    until(world, lambda: world.told >= 2 * len(world.servers))
    assert world.phase is TaskPhase.ASSIGNED
    plan = decide_assignment(world.server_sees(world.servers[0]), 0)
    claim = plan.claims[Type.SANDBOX_READY]
    assert (claim.status, claim.reason, claim.message) == (Status.FALSE, "RelaysUnreachable", remedy("RelaysUnreachable"))
    assert plan.claims[Type.KEY_PUBLISHED].reason == "WaitingForKey"  # it is said once, where it hurts
    assert [type(effect).__name__ for effect in plan.effects].count("ConfigureAgent") == 1
    world.trouble = ""
    run(world)
    assert world.phase is TaskPhase.COMPLETED


@pytest.mark.parametrize("code", sorted(TROUBLES))
def test_a_trouble_that_outlasts_the_deadline_is_the_servers_failure(code: str) -> None:
    world = World()
    world.trouble = code
    run(world)
    assert world.phase is TaskPhase.CLOSED
    assert {server.facts.failure.code for server in world.servers if server.facts.failure} >= {code}


def test_a_program_that_takes_too_long_is_not_blamed_on_relays() -> None:
    world = World()
    until(world, lambda: world.phase is TaskPhase.RUNNING)
    seen = world.server_sees(world.servers[1])
    assert world.terms is not None
    late = dataclasses.replace(seen, chain_now=world.terms.complete_by + 1)
    for agent, code in (
        (AgentSeen(started=True, trouble="RelaysUnreachable"), "DeadlineExceeded"),
        (AgentSeen(started=True, exited=0, trouble="RelaysUnreachable"), "RelaysUnreachable"),
    ):
        plan = decide_assignment(dataclasses.replace(late, facts=dataclasses.replace(seen.facts, agent=agent)), 0)
        assert [effect.failure.code for effect in plan.effects if isinstance(effect, do.RecordFailure)] == [code]


def test_a_server_that_could_not_say_why_is_explained_by_the_directory() -> None:
    world = World()
    world.trouble = "TooFewRelays"
    until(world, lambda: any(server.facts.agent.trouble for server in world.servers))
    world.relays = TOO_FEW
    run(world)
    assert world.failure is not None
    assert world.failure.code == "TooFewRelays"


def test_troubles_come_and_go_as_the_agent_says() -> None:
    agent = fold(AgentSeen(), "relays", {"trouble": "ClockSkew"})
    assert agent.trouble == "ClockSkew"
    assert fold(agent, "relays", {"trouble": ""}).trouble == ""
    for wrong in ({"trouble": "relay 7 at 10.0.0.1"}, {"trouble": 1}, {}, {"trouble": "", "more": 1}):
        with pytest.raises(ProtocolViolation):
            fold(agent, "relays", wrong)


def test_what_was_written_before_troubles_were_known_is_still_read() -> None:
    world = World()
    document = world.servers[0].facts.to_json()
    del document["agent"]["trouble"]
    assert parse_facts(document) == world.servers[0].facts
