"""One party of a channel: answers first, and takes money home only after the sandbox and the key are gone."""

import dataclasses

import pytest
from tests.unit.core.task.world import World

from veilpod.core.entities import ChainChannel, ChannelPhase, TaskPhase
from veilpod.core.ids import ChannelId
from veilpod.core.task.conditions import Type
from veilpod.core.task.decide import decide_channel
from veilpod.core.task.snapshot import ChannelSnapshot, Unknown

NOW = 1_000_000


def channel(phase: ChannelPhase, *, sequence: int = 0, deadline: int = NOW + 100, a: int = 100, b: int = 100) -> ChainChannel:
    return ChainChannel(id=ChannelId(bytes(32)), phase=phase, epoch=1, sequence=sequence, deadline=deadline, balance_a=a, balance_b=b)


def snapshot(phase: ChannelPhase = ChannelPhase.OPEN, *, over: bool = False, **changes: object) -> ChannelSnapshot:
    world = World()
    world.phase = TaskPhase.COMPLETED if over else TaskPhase.ASSIGNED
    made = ChannelSnapshot(
        chain=channel(phase),
        task=world.chain_task(),
        chain_now=NOW,
        is_a=True,
        deposit=100,
        peer_deposit=100,
        wanted=not over,
        destroyed=over,
        newest=0,
        final=False,
        settling_for=0,
        deleting=False,
        finalizer=True,
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def effects(s: ChannelSnapshot) -> list[str]:
    return [type(effect).__name__ for effect in decide_channel(s, 0).effects]


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (snapshot(ChannelPhase.NONE), ["OpenChannel"]),
        (snapshot(ChannelPhase.NONE, is_a=False), []),
        (snapshot(ChannelPhase.NONE, wanted=False), []),
        (snapshot(ChannelPhase.OPENING), []),
        (snapshot(ChannelPhase.OPENING, is_a=False), ["JoinChannel"]),
        (snapshot(ChannelPhase.OPENING, is_a=False, chain=channel(ChannelPhase.OPENING, b=200)), []),
        (snapshot(ChannelPhase.OPENING, over=True), ["CancelChannel"]),
        (snapshot(), []),
        (snapshot(final=True), []),
        (snapshot(over=True, final=True), ["CloseChannel"]),
        (snapshot(over=True, final=True, is_a=False), []),
        (snapshot(over=True, final=True, is_a=False, settling_for=61), ["CloseChannel"]),
        (snapshot(over=True), []),
        (snapshot(over=True, settling_for=121), ["Challenge"]),
        (snapshot(over=True, settling_for=121, destroyed=False), []),
        (snapshot(settling_for=121, destroyed=True), []),
        (snapshot(chain=Unknown("ChainUnavailable"), over=True, final=True), []),
        (snapshot(task=Unknown("ChainUnavailable"), final=True, destroyed=True), []),
    ],
)
def test_what_is_done_and_what_is_waited_for(case: ChannelSnapshot, expected: list[str]) -> None:
    assert effects(case) == expected


def test_an_old_state_is_answered_while_the_sandbox_still_lives() -> None:
    disputed = snapshot(chain=channel(ChannelPhase.DISPUTED, sequence=2), newest=1 << 40 | 5)
    assert effects(disputed) == ["Respond"]
    assert effects(dataclasses.replace(disputed, newest=1 << 40 | 2)) == []
    assert effects(dataclasses.replace(disputed, newest=2 << 40 | 5)) == [], "a state of another session answers nothing"
    assert effects(dataclasses.replace(disputed, chain_now=NOW + 101)) == [], "too late"


def test_a_dispute_ends_with_the_final_state_or_after_its_period() -> None:
    disputed = channel(ChannelPhase.DISPUTED, sequence=2, deadline=NOW - 1)
    assert effects(snapshot(over=True, chain=disputed)) == ["Finalize"]
    assert effects(snapshot(over=True, chain=disputed, final=True)) == ["CloseChannel"]
    assert effects(snapshot(chain=disputed)) == [], "not while the sandbox lives"


def test_the_object_goes_only_when_the_money_is_home() -> None:
    assert effects(snapshot(deleting=True)) == []
    assert effects(snapshot(ChannelPhase.CLOSED, over=True, deleting=True)) == ["RemoveFinalizer"]
    plan = decide_channel(snapshot(ChannelPhase.CLOSED, over=True), 0)
    assert plan.claims[Type.SETTLED].status == "True"
