"""Single decisions of a requester that the life in `world` does not bring about."""

import dataclasses

from tests.unit.core.task.world import World

from veilpod.core.entities import ChannelPhase, TaskPhase
from veilpod.core.ids import ServerIndex
from veilpod.core.task import plan as do
from veilpod.core.task.conditions import Status, Type
from veilpod.core.task.decide import decide_task
from veilpod.core.task.snapshot import CeremonySeen, MailboxSeen, Publication, Refusal, TaskSnapshot, Unknown


def assigned(**changes: object) -> TaskSnapshot:
    """A task whose servers have all accepted."""
    world = World()
    while world.phase is not TaskPhase.ASSIGNED:
        world.act_requester()
    world.announced = True
    for channel in world.channels:
        channel.phase = ChannelPhase.OPEN
    publication = Publication(key="0x", statements=(b"", b"", b""), signatures=b"", descriptors=b"")  # type: ignore[arg-type]
    box = MailboxSeen(announced=True, offers=frozenset(ServerIndex(i) for i in range(3)), publication=publication)
    return dataclasses.replace(world.requester_sees(), mailbox=box, **changes)  # type: ignore[arg-type]


def effects(snapshot: TaskSnapshot) -> list[str]:
    return [type(effect).__name__ for effect in decide_task(snapshot, 0).effects]


def test_the_key_is_published_when_all_accepted_and_all_channels_are_open() -> None:
    assert effects(assigned()) == ["PublishKey"]


def test_no_key_is_published_while_a_channel_is_not_seen_open() -> None:
    snapshot = assigned()
    assert not isinstance(snapshot.channels, Unknown)
    opening = dataclasses.replace(snapshot.channels[0], phase=ChannelPhase.OPENING)
    assert effects(dataclasses.replace(snapshot, channels=(opening, snapshot.channels[1]))) == []
    assert effects(dataclasses.replace(snapshot, channels=Unknown("ChainUnavailable"))) == []


def test_who_holds_up_the_key_is_said() -> None:
    snapshot = assigned()
    assert isinstance(snapshot.mailbox, MailboxSeen)
    for seen, reason, words in (
        (None, "WaitingForServers", ""),
        (CeremonySeen(stage="reveal", missing=(ServerIndex(1), ServerIndex(2))), "WaitingForServers", "no reveal yet of server 1, 2"),
        (CeremonySeen(stage="reveal", proved=((ServerIndex(2), "BadShare"),)), "CeremonyFault", "server 2 (BadShare)"),
    ):
        box = dataclasses.replace(snapshot.mailbox, publication=None, ceremony=seen)
        claim = decide_task(dataclasses.replace(snapshot, mailbox=box), 0).claims[Type.KEY_PUBLISHED]
        assert (claim.status, claim.reason) == (Status.FALSE, reason)
        assert words in claim.message


def test_a_server_that_left_ends_the_scheduling_instead_of_the_publication() -> None:
    snapshot = assigned()
    assert not isinstance(snapshot.task, Unknown)
    left = dataclasses.replace(snapshot, task=dataclasses.replace(snapshot.task, reported=0b010))
    plan = decide_task(left, 0)
    assert [type(effect).__name__ for effect in plan.effects] == ["CancelTask"]
    assert plan.failure is not None


def test_an_unknown_chain_or_mailbox_changes_nothing() -> None:
    assert effects(assigned(task=Unknown("ChainUnavailable"))) == []
    assert effects(assigned(chain_now=Unknown("ChainUnavailable"))) == []
    assert effects(dataclasses.replace(assigned(), mailbox=Unknown("MailboxUnavailable"))) == []


def test_a_refused_manifest_says_why_and_requests_nothing() -> None:
    snapshot = dataclasses.replace(World().requester_sees(), finalizer=True, intent=Refusal(reason="BudgetTooSmall", message="raise it"))
    plan = decide_task(snapshot, 0)
    assert plan.effects == ()
    assert plan.claims[Type.REQUESTED].status is Status.FALSE
    assert plan.claims[Type.REQUESTED].reason == "BudgetTooSmall"


def test_a_deleted_task_whose_request_may_still_land_is_held() -> None:
    snapshot = dataclasses.replace(World().requester_sees(), finalizer=True, deleting=True, attempted_until=1_000_100)
    assert decide_task(snapshot, 0).effects == ()
    late = dataclasses.replace(snapshot, chain_now=1_000_101)
    assert decide_task(late, 0).effects == (do.RemoveFinalizer(),)
