"""Under any sequence of observations, crashes and adversaries the order of the end is never broken, and the task still ends.

The law itself is checked in `world` on the truth after every effect.
"""

from random import Random

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.unit.core.task.world import World

from veilpod.core.entities import TaskPhase

SABOTAGE = (
    "none",
    "delete-task",
    "delete-assignment",
    "restart",
    "end-pod",
    "evict",
    "vanish",
    "fail",
    "mute",
    "fences",
    "stray",
    "refund",
    "challenge",
    "land",
    "jump",
    "forget",
)


def sabotage(world: World, what: str, where: int) -> None:
    """Do what an adversary, a node or bad luck can."""
    server = world.servers[where % len(world.servers)]
    pod = server.pods[0] if server.pods else None
    if what == "delete-task":
        world.deleting = True
    elif what == "delete-assignment":
        server.deleting = server.assigned
    elif what == "restart" and pod:
        pod.restarted = True
    elif what == "end-pod" and pod:
        pod.ended = True
    elif what == "evict" and pod:
        pod.deleting = True
    elif what == "vanish" and pod and server.facts.record(pod.uid):
        # Somebody got past the guard of the finalizer. (Before its UID was learnt, nobody could tell it from a pod never made.)
        server.pods.remove(pod)  # its containers live on until the kubelet's deadline
    elif what == "fail" and server.facts.agent.ready:
        world.fail_agent(server, "ProgramFailed")
    elif what == "mute" and pod:
        pod.mute = True
    elif what == "fences":
        server.policies = b"a hole"
    elif what == "stray":
        stray = type(pod)(uid=f"stray-{server.counter}", name="stray", incarnation=1, nonce="other", ends=world.clock) if pod else None
        if stray:
            stray.running = False
            server.pods.append(stray)
    elif what == "challenge":
        for channel in world.channels:
            if channel.phase.name == "OPEN" and server.index in channel.link:
                channel.phase, channel.sequence, channel.deadline = type(channel.phase).DISPUTED, 0, world.clock + 3600
    elif what == "forget":
        world.announced = False  # the requester's operator restarted, or the mailbox did
    elif what == "land":
        world.land_late_posts(server)
    elif what == "jump":
        world.pass_time(240)


@settings(
    max_examples=60,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    seed=st.integers(0, 1 << 32),
    unseen=st.sampled_from([0.0, 0.1, 0.4]),
    crashing=st.sampled_from([0.0, 0.1, 0.3]),
    peers_sign=st.booleans(),
    script=st.dictionaries(st.integers(0, 60), st.tuples(st.sampled_from(SABOTAGE), st.integers(0, 2)), max_size=5),
)
def test_no_interleaving_breaks_the_order_and_every_task_ends(
    seed: int, unseen: float, crashing: float, peers_sign: bool, script: dict[int, tuple[str, int]]
) -> None:
    world, random = World(), Random(seed)
    world.blind = lambda what: random.random() < unseen
    world.crash = lambda: random.random() < crashing
    world.peers_sign = peers_sign

    for turn in range(60):
        if turn in script:
            sabotage(world, *script[turn])
        for _ in range(6):
            actor = random.randrange(4)
            if actor == 3:
                world.act_requester()
            else:
                server = world.servers[actor]
                world.act_server(server)
                for channel in world.channels:
                    if server.index in channel.link:
                        world.act_channel(channel, server)
            nature = world.servers[random.randrange(3)]
            world.kubelet(nature)
            world.agent(nature)
            world.drop_late_posts(nature)
            if random.random() < 0.3:
                world.land_late_posts(nature)
        world.pass_time(random.choice([1, 5, 30]))

    # Now everybody sees and nobody crashes: whatever happened, it ends.
    world.blind, world.crash = (lambda what: False), (lambda: False)
    for _ in range(1500):
        if world.settled or (world.gone and world.phase is TaskPhase.NONE):
            break
        world.turn(10)
    else:
        raise AssertionError(f"never ended: {world.phase!r} {[s.facts for s in world.servers]} {[c.phase for c in world.channels]}")
    assert all(not server.living() for server in world.servers if server.assigned)
