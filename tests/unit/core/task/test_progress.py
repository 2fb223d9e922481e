"""In a world where everybody does their part in the end, every task ends: with its result, or refunded."""

from tests.unit.core.task.world import World

from veilpod.core.entities import TaskPhase
from veilpod.core.ids import Address
from veilpod.core.task import conditions
from veilpod.core.task.conditions import Type


def run(world: World, turns: int = 400, seconds: int = 5) -> World:
    for _ in range(turns):
        world.turn(seconds)
        if world.settled:
            return world
    raise AssertionError(f"not settled: {world.phase!r} {world.reported:b} {[c.phase for c in world.channels]} {world.conditions}")


def until(world: World, reached: object, turns: int = 60) -> World:
    for _ in range(turns):
        if reached():  # type: ignore[operator]
            return world
        world.turn(1)
    raise AssertionError("the situation did not arise")


def test_an_undisturbed_task_completes_and_settles_in_few_turns() -> None:
    world = run(World(), turns=30, seconds=1)
    assert world.phase is TaskPhase.COMPLETED
    assert conditions.phase(world.conditions) == "Settled"
    assert world.failure is None
    assert all(server.facts.destroyed == "Observed" for server in world.servers)


def test_every_condition_of_a_completed_task_is_true_but_attested_and_failed() -> None:
    world = run(World(), turns=30, seconds=1)
    false = {c.type for c in world.conditions if c.status is not conditions.Status.TRUE}
    assert false == {Type.ATTESTED}


def test_a_task_that_is_deleted_while_it_runs_is_torn_down_and_let_go() -> None:
    world = World()
    until(world, lambda: world.phase is TaskPhase.RUNNING)
    world.deleting = True
    for _ in range(100):
        world.turn()
    assert world.gone
    assert world.phase is TaskPhase.CLOSED
    assert all(not server.living() for server in world.servers)


def test_a_task_deleted_before_anything_was_requested_goes_at_once() -> None:
    world = World()
    world.deleting = True
    world.turn()
    assert world.gone
    assert world.phase is TaskPhase.NONE


def test_a_program_that_fails_in_the_hub_ends_refunded_with_its_code() -> None:
    world = World()
    until(world, lambda: world.servers[0].facts.agent.started)
    world.fail_agent(world.servers[0], "ProgramFailed")
    run(world)
    assert world.phase is TaskPhase.CLOSED
    assert world.failure is not None
    assert world.failure.code == "ProgramFailed"
    assert conditions.phase(world.conditions) == "Failed"


def test_losing_the_quorum_stops_the_others() -> None:
    world = World()
    until(world, lambda: world.phase is TaskPhase.RUNNING)
    world.fail_agent(world.servers[2], "InputTimeout")
    run(world)
    assert world.phase is TaskPhase.CLOSED
    assert world.stopping


def test_a_silent_peer_costs_a_challenge_period_and_no_more() -> None:
    world = World()
    world.peers_sign = False
    run(world, turns=4000)
    assert world.phase is TaskPhase.COMPLETED
    assert world.settled


def test_a_sandbox_lost_before_its_statement_is_replaced() -> None:
    world = World()
    until(world, lambda: bool(world.servers[1].pods))
    world.servers[1].pods[0].restarted = True
    run(world)
    assert world.phase is TaskPhase.COMPLETED
    assert world.servers[1].facts.incarnation == 2


def test_a_fence_that_does_not_hold_refuses_the_task_at_once() -> None:
    world = World()
    until(world, lambda: bool(world.servers[1].pods))
    world.servers[1].pods[0].refused = world.servers[1].pods[0].ended = True
    run(world)
    assert world.phase is TaskPhase.CLOSED
    assert world.servers[1].facts.incarnation == 1
    assert world.servers[1].facts.failure is not None
    assert world.servers[1].facts.failure.code == "NetguardRefused"


def test_a_fence_that_nobody_could_prove_is_the_reason_once_no_sandbox_is_left_to_try() -> None:
    world = World()

    def gives_up() -> None:
        for pod in world.servers[1].pods:
            pod.unproved = pod.ended = True

    for _ in range(400):
        gives_up()
        world.turn(1)
        if world.phase is TaskPhase.CLOSED:
            break
    assert world.servers[1].facts.incarnation > 1, "it was tried again"
    assert world.servers[1].facts.failure is not None
    assert world.servers[1].facts.failure.code == "NetguardRefused"


def test_a_sandbox_lost_after_its_statement_fails_the_task() -> None:
    world = World()
    until(world, lambda: world.phase is TaskPhase.RUNNING)
    world.servers[1].pods[0].restarted = True
    run(world)
    assert world.phase is TaskPhase.CLOSED
    assert world.servers[1].facts.failure is not None
    assert world.servers[1].facts.failure.code == "AgentRestarted"


def test_an_escrow_in_another_asset_than_was_promised_gets_no_sandbox() -> None:
    world = World()
    world.asset = Address("0x" + "ee" * 20)
    run(world)
    assert world.phase is TaskPhase.CLOSED
    assert [server.pods for server in world.servers] == [[], [], []]
    assert {server.facts.failure.code for server in world.servers if server.facts.failure} == {"AssetMismatch"}


def test_changed_fences_end_the_sandbox() -> None:
    world = World()
    until(world, lambda: world.phase is TaskPhase.RUNNING)
    world.servers[2].policies = b"a hole"
    run(world)
    assert world.servers[2].facts.failure is not None
    assert world.servers[2].facts.failure.code == "PolicyChanged"
    assert world.servers[2].facts.zeroised == "Acknowledged"
    assert not world.servers[2].facts.released  # no goodbyes through an open door


def test_a_server_that_never_shows_up_does_not_hold_the_others_money() -> None:
    world = World()
    until(world, lambda: world.phase is TaskPhase.ASSIGNED)
    world.servers[2].gone = True
    for _ in range(1500):
        world.turn()
    assert world.phase is TaskPhase.CLOSED
    assert all(conditions.is_true(server.conditions, Type.SETTLED) for server in world.servers[:2])


def test_servers_settle_without_a_requester_that_went_away() -> None:
    world = World()
    until(world, lambda: world.phase is TaskPhase.RUNNING)
    world.gone = True
    world.fail_agent(world.servers[0], "ProgramFailed")
    for _ in range(2000):
        world.turn()
    assert world.phase is TaskPhase.CLOSED
    assert all(conditions.is_true(server.conditions, Type.SETTLED) for server in world.servers)


def test_the_result_is_completed_without_a_server_that_vanished_after_its_work() -> None:
    world = World()
    until(world, lambda: world.servers[2].facts.agent.exited == 0)
    world.servers[2].gone = True
    for _ in range(2000):
        world.turn()
    assert world.phase is TaskPhase.COMPLETED
    assert conditions.is_true(world.conditions, Type.SETTLED)


def test_a_requester_that_forgot_its_mailbox_does_not_take_silence_for_failure() -> None:
    world = World()
    until(world, lambda: world.servers[1].facts.destroyed != "")
    world.announced = False
    run(world)
    assert world.phase is TaskPhase.COMPLETED


def test_nothing_is_called_destroyed_while_a_lost_creation_may_still_make_a_pod() -> None:
    world = World()
    until(world, lambda: world.phase is TaskPhase.ASSIGNED)
    server = world.servers[1]
    world.blind = lambda what: what == "late"  # the answer to the next creation is lost, the request is not
    world.act_server(server)
    world.blind = lambda what: False
    server.deleting = True
    begun = world.clock
    while not server.facts.destroyed:
        world.act_server(server)
        world.pass_time(5)
        if world.clock - begun == 50:
            world.land_late_posts(server)
        world.kubelet(server)
        assert world.clock - begun < 300
    assert server.containers, "the pod did come"
    assert not server.living()
