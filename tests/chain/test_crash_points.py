"""Operators die before, after and amid every effect that the rules can return, in whole lives of tasks over a real chain.

Nobody counts the effects by hand: they are read from the rules, and a life that does not come by where it should fails.
"""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable

import pytest
from demo.ledger import Ledger
from demo.veilpod_demo import crash
from tests.support import crash_points
from tests.support.anvil import CHAIN_ID, account
from tests.support.crash_points import Deaths, Place, dying_amid, dying_around
from tests.support.fake_cluster import true_conditions
from tests.support.operators import World, world
from tests.support.reckoning import Reckoning, reckon
from web3 import Web3

from veilpod import chain
from veilpod.control.compute_view import parse_channel
from veilpod.core.channel.state import opening_state
from veilpod.core.kinds import COMPUTE_TASKS, PODS, STATE_CHANNELS, TASK_ASSIGNMENTS, Kind

pytestmark = pytest.mark.chain

PERIOD = 3700  # seconds: more than the channels' challenge period


def at(kind: Kind, *effects: str) -> set[Place]:
    return {(kind.plural, effect) for effect in effects}


def owned(w: World, kind: Kind) -> list[dict]:
    return [body for server in w.servers for body in server.objects(kind)]


def settled(w: World, kind: Kind) -> bool:
    return all("Settled" in true_conditions(body) for body in owned(w, kind))


def ask_deletion(w: World, kind: Kind) -> None:
    for release in (w.requester, *w.servers):
        for body in release.objects(kind):
            release.cluster.ask_deletion(kind, body["metadata"]["name"], namespace=release.name)


async def everything_goes(w: World) -> None:
    """Objects that are settled, and their finalizers, go when somebody deletes them."""
    for kind in (COMPUTE_TASKS, TASK_ASSIGNMENTS, STATE_CHANNELS):
        ask_deletion(w, kind)
    await w.until(lambda: not any((w.requester.objects(COMPUTE_TASKS), owned(w, TASK_ASSIGNMENTS), owned(w, STATE_CHANNELS))))


def lose_finalizers(w: World, kind: Kind) -> None:
    for server in w.servers:
        for body in server.objects(kind):
            server.cluster.modify(kind, body["metadata"]["name"], lambda body: body["metadata"].pop("finalizers"), namespace=server.name)


# -- the lives


async def completed(w: World, deaths: Deaths) -> None:
    """Tasks to their good end, one after the other; somebody takes the finalizers of their objects meanwhile; then all of it is deleted.

    More than one: who dies before an effect may find it done, and does not get to the moment after it.
    """
    for number in range(5):
        name = f"job-{number}"
        w.network.may_exit.clear()
        w.apply(name)
        await w.until_true("InputsVerified", name)
        lose_finalizers(w, TASK_ASSIGNMENTS)
        lose_finalizers(w, STATE_CHANNELS)
        w.network.may_exit.set()
        await deaths.until(lambda name=name: "Settled" in true_conditions(w.task(name)), skipping=1)
        assert w.task(name)["status"]["phase"] == "Settled"
        assert {len(server.kubelet.created) for server in w.servers} == {number + 1}, "never two sandboxes"
        await w.until(lambda: settled(w, TASK_ASSIGNMENTS) and settled(w, STATE_CHANNELS))
        await everything_goes(w)
        if not deaths.missing():
            return


async def silent(w: World, deaths: Deaths) -> None:
    """A task is deleted while its agents say nothing any more: no last word, no zeroise answer."""
    w.network.may_exit.clear()
    w.apply()
    await w.until_true("InputsVerified")
    for agent in w.network.agents.values():
        agent.kill()
    w.requester.cluster.ask_deletion(COMPUTE_TASKS, "job", namespace="requester")
    await deaths.until(lambda: w.requester.object(COMPUTE_TASKS, "job") is None, skipping=100)
    await deaths.until(lambda: settled(w, STATE_CHANNELS), skipping=PERIOD)


async def cheated(w: World, deaths: Deaths) -> None:
    """A server challenges with the deposits after they have moved; the other side answers."""
    w.network.may_end.clear()
    w.apply()
    await deaths.until(lambda: _paid(w), skipping=1)
    for index, server in enumerate(w.servers, start=1):
        for channel in map(parse_channel, server.objects(STATE_CHANNELS)):
            if channel.a == server.key.address:
                await _challenge(w, index, channel)
    w.network.may_end.set()
    await w.until_true("KeyRevoked")
    await deaths.until(lambda: settled(w, STATE_CHANNELS) and "Settled" in true_conditions(w.task()), skipping=PERIOD)


async def abandoned(w: World, deaths: Deaths) -> None:
    """A server is away from the start and the requester soon after: nobody joins its channels, and others close the task."""
    away = max(w.servers, key=lambda server: int(server.key.address, 16))  # the party b of every channel of its
    await deaths.leave(away)
    w.apply()
    await w.until_true("Scheduled")
    await deaths.leave(w.requester)
    await deaths.until(lambda: _revoked(w), skipping=200)
    await deaths.until(lambda: settled(w, STATE_CHANNELS) and settled(w, TASK_ASSIGNMENTS), skipping=PERIOD)
    await deaths.come_back(w.requester)
    await deaths.come_back(away)
    await deaths.until(lambda: "Settled" in true_conditions(w.task()), skipping=10)


def _revoked(w: World) -> bool:
    return bool(owned(w, TASK_ASSIGNMENTS)) and all("KeyRevoked" in true_conditions(body) for body in owned(w, TASK_ASSIGNMENTS))


def _paid(w: World) -> bool:
    channels = owned(w, STATE_CHANNELS)
    return len(channels) == 4 and all((body.get("status") or {}).get("updates", 0) >= 1 for body in channels)


async def _challenge(w: World, index: int, channel) -> None:
    deposits = opening_state(epoch=channel.session, deposit_a=channel.deposit, deposit_b=channel.peer_deposit)
    directory = w.servers[index - 1].config.state_dir.parent / f"cheater-{index}"
    async with await chain.connect(
        w.anvil.url,
        chain_id=CHAIN_ID,
        addresses=w.anvil.addresses,
        state_dir=directory,
        key=account(index),
        depth=0,
        poll_seconds=0.05,
    ) as link:
        await link.writer.challenge(channel.a, channel.b, channel.terms, deposits, b"")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """What happens, and around which effects everybody dies meanwhile."""

    story: Callable[[World, Deaths], Awaitable[None]]
    places: set[Place]
    changes: int  # amid as many kinds of change at least; who dies of one may leave another to its successor's sender


LIVES = (
    Life(
        story=completed,
        places=at(
            COMPUTE_TASKS, "AddFinalizer", "RequestTask", "AssignServers", "AnnounceTask", "PublishKey", "ForgetTask", "RemoveFinalizer"
        )
        | at(TASK_ASSIGNMENTS, "AddFinalizer", "CreateChannels", "BeginIncarnation", "CreatePod", "ConfigureAgent", "CountersignStatement")
        | at(TASK_ASSIGNMENTS, "SignSandboxKey", "HandDescriptors", "RecordEnding", "RequestFinals", "PersistFinalStates", "Release")
        | at(TASK_ASSIGNMENTS, "Zeroise", "DeletePod", "RecordEvidence", "ReleasePodFinalizer", "RecordDestroyed", "ReportDestroyed")
        | at(TASK_ASSIGNMENTS, "CompleteTask", "RemoveFinalizer")
        | at(STATE_CHANNELS, "AddFinalizer", "OpenChannel", "JoinChannel", "CloseChannel", "RemoveFinalizer"),
        changes=20,
    ),
    Life(
        story=silent,
        places=at(COMPUTE_TASKS, "CancelTask", "Refund")
        | at(TASK_ASSIGNMENTS, "RecordFailure", "RecordUnreachable")
        | at(STATE_CHANNELS, "Challenge", "Finalize"),
        changes=16,
    ),
    Life(story=cheated, places=at(STATE_CHANNELS, "Respond"), changes=15),
    Life(
        story=abandoned,
        places=at(TASK_ASSIGNMENTS, "Refund") | at(STATE_CHANNELS, "CancelChannel"),
        changes=10,
    ),
)


def test_the_lives_come_by_every_effect_that_the_rules_can_return():
    assert {effect for _, effect in crash_points.places()} == crash_points.effects(), "an effect that no rule returns is dead"
    assert set[Place]().union(*(life.places for life in LIVES)) == crash_points.places()


every_life = pytest.mark.parametrize("life", LIVES, ids=[life.story.__name__ for life in LIVES])


@every_life
async def test_whoever_dies_before_and_after_an_effect_leaves_nothing_behind_and_settles_once(anvil, tmp_path, monkeypatch, life):
    async with world(anvil, tmp_path) as w, dying_around(w, life.places, monkeypatch) as deaths:
        await life.story(w, deaths)
        assert deaths.missing() == [], "nobody came by"
        nothing_is_left(w)


@every_life
async def test_whoever_dies_before_it_knows_that_an_effect_is_done_leaves_nothing_behind_and_settles_once(
    anvil, tmp_path, monkeypatch, life
):
    async with world(anvil, tmp_path) as w, dying_amid(w, monkeypatch) as deaths:
        await life.story(w, deaths)
        assert len(deaths.happened) >= life.changes, sorted(deaths.happened)
        nothing_is_left(w)


def nothing_is_left(w: World) -> None:
    left = _reckon(w)
    assert (left.twice, left.keys, left.channels) == ((), (), ())
    assert set(left.tasks) == set(left.ended) != set()
    assert owned(w, PODS) == []


def _reckon(w: World) -> Reckoning:
    web3 = Web3(Web3.HTTPProvider(w.anvil.url))
    contracts = dataclasses.asdict(w.anvil.addresses)
    return reckon(Ledger(web3=web3, contracts=contracts, first=0, last=web3.eth.block_number))


async def test_an_operator_dies_once_at_a_crash_point_and_gets_past_it_the_next_time(tmp_path):
    done, wanted = [], crash_points.points([(TASK_ASSIGNMENTS.plural, "RecordEnding")])
    effect, context = crash_points.plan.RecordEnding(), _Somebody(tmp_path)

    async def act() -> None:
        done.append("acted")

    async def perform(_context, _kind, _name, _effect, act):
        await act()

    async def die(_context) -> None:
        raise asyncio.CancelledError

    performing = crash.dying(perform, lambda context, here: here in wanted and crash.first_time(context.config.state_dir, here), die)
    for _ in range(4):
        try:
            await performing(context, TASK_ASSIGNMENTS, "ta", effect, act)
        except asyncio.CancelledError:
            done.append("died")
    assert done == ["died", "acted", "died", "acted", "acted"]
    assert {marker.name for marker in (tmp_path / crash.DIRECTORY).iterdir()} == wanted


class _Somebody:
    """As much of a context as a crash point looks at."""

    def __init__(self, state_dir) -> None:
        self.config = self
        self.state_dir = state_dir
