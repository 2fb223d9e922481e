"""What happens when something is not as it should be: a coded failure, told once, and an orderly end all the same."""

import asyncio
import dataclasses

import pytest
from tests.support import sandbox_net
from tests.support.sandbox_net import (
    DOMAIN,
    FIRST_STORE,
    HUB,
    SITE,
    TASK,
    Sandbox,
    World,
    deliver,
    free_port,
    sealed_object,
    serve_object,
    solo,
    star,
)

from veilpod.agent import confinement, peers, probe, seal
from veilpod.core.agent_messages import parse_sealed_result
from veilpod.core.canary import Canary
from veilpod.core.ids import PodUid
from veilpod.core.keys import SigningKey
from veilpod.core.meeting import verify_result
from veilpod.core.task import spec
from veilpod.core.task.spec import Quorum, Topology
from veilpod.errors import ProtocolViolation, Refused

SLEEP = "import os, time; os.write(1, b'ready'); time.sleep(600)"


@pytest.fixture
def short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read specifications whose deadlines the chain would refuse: the real ones take a minute each."""
    monkeypatch.setattr(spec, "DEADLINE_SPACING", 0)


async def configure(world: World, sandbox: Sandbox) -> None:
    arguments = sandbox.configuration([sandbox.chain_key], world.mailbox.directory, world.mailbox.service.listener.port)
    await sandbox.link.call("configure", **arguments.document())


async def outcome(sandbox: Sandbox) -> int:
    return await asyncio.to_thread(seal.run, socket=sandbox.settings.seal_socket, termination_log=None)


async def test_no_key_exists_while_the_fence_is_down(world: World) -> None:
    world.netguard_seconds = 1.5
    await world.start(solo())
    [sandbox] = world.sandboxes
    world.fence.fall()
    await configure(world, sandbox)
    assert await sandbox.until("failed") == {"code": "NetguardRefused", "fatal": True}
    assert sandbox.service.life.identity is None
    with pytest.raises(Refused) as refused:
        await sandbox.link.call("statement")
    assert refused.value.reason == "NetguardRefused"
    with pytest.raises(Refused) as nothing:
        await sandbox.link.call("zeroise")
    assert nothing.value.reason == "NoKeys"


async def test_no_key_exists_on_another_kernel_than_was_promised(world: World) -> None:
    await world.start(solo())
    [sandbox] = world.sandboxes
    arguments = sandbox.configuration([sandbox.chain_key], world.mailbox.directory, world.mailbox.service.listener.port)
    await sandbox.link.call("configure", **dataclasses.replace(arguments, tier="T1").document())
    assert await sandbox.until("failed") == {"code": "RuntimeMismatch", "fatal": True}
    assert sandbox.service.life.identity is None
    assert "netguard" not in sandbox.events


async def test_no_key_exists_where_a_program_with_ports_cannot_be_confined(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confinement, "_landlock_abi", lambda: 3)
    ported = Topology(type="None", ports=(free_port(),))
    await world.start(dataclasses.replace(solo(), topology=ported))
    [sandbox] = world.sandboxes
    await configure(world, sandbox)
    assert await sandbox.until("failed") == {"code": "ProgramNotConfined", "fatal": True}
    assert sandbox.service.life.identity is None


async def test_a_class_may_do_without_and_the_sandbox_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confinement, "_landlock_abi", lambda: -1)
    await world.start(dataclasses.replace(solo(), topology=Topology(type="None", ports=(free_port(),))))
    [sandbox] = world.sandboxes
    arguments = sandbox.configuration([sandbox.chain_key], world.mailbox.directory, world.mailbox.service.listener.port)
    await sandbox.link.call("configure", **dataclasses.replace(arguments, confinement_required=False).document())
    await sandbox.until("ready")
    assert (await sandbox.link.call("statement"))["statement"]["programConfined"] is False


async def test_a_program_gets_no_port_of_the_relays(world: World) -> None:
    await world.start(dataclasses.replace(solo(), topology=Topology(type="None", ports=(world.fence.peer[1],))))
    [sandbox] = world.sandboxes
    with pytest.raises(Refused) as refused:
        await configure(world, sandbox)
    assert refused.value.reason == "PortTaken"


async def test_a_fence_that_falls_ends_the_program(world: World) -> None:
    await world.start(solo())
    [sandbox] = world.sandboxes
    await world.meet()
    await sandbox.start_program(SLEEP)
    await sandbox.until("started")
    world.fence.fall()
    assert (await sandbox.until("failed"))["code"] == "NetguardRefused"
    assert (await sandbox.until("exited"))["how"] == "Stopped"
    assert "result" not in sandbox.events


async def test_a_fence_that_cannot_be_looked_at_any_more_ends_the_program_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.start(solo())
    [sandbox] = world.sandboxes
    await world.meet()
    await sandbox.start_program(SLEEP)
    await sandbox.until("started")
    looks = 0

    async def blind(place: Canary, seconds: float) -> str:
        nonlocal looks
        looks += place == world.fence.canary
        return "unknown"

    monkeypatch.setattr(probe, "look", blind)
    assert (await sandbox.until("failed"))["code"] == "NetguardRefused"
    assert looks == 3  # for a moment it is neither blocked nor open


@pytest.mark.parametrize(
    ("program", "how", "failure"),
    [
        ("raise SystemExit(3)", {"how": "Exited", "code": 3}, "ProgramFailed"),
        (SLEEP, {"how": "Deadline", "code": 0}, "ProgramTimeout"),
        (
            "import pathlib, sys; pathlib.Path(sys.argv[4], 'big').write_bytes(bytes(2 << 20))",
            {"how": "Exited", "code": 0},
            "ResultTooLarge",
        ),
    ],
    ids=["fails", "takes too long", "makes too much"],
)
async def test_a_failed_program_is_settled_and_released_like_any_other(
    world: World, short_deadlines: None, program: str, how: dict[str, object], failure: str
) -> None:
    await world.start(solo(compute=2))
    [sandbox] = world.sandboxes
    await world.meet()
    await sandbox.start_program(program)
    assert await sandbox.until("exited") == how
    assert (await sandbox.until("failed"))["code"] == failure
    assert await sandbox.until("flushed") == {"links": []}
    assert sandbox.process is not None
    assert await sandbox.process.wait() == 0  # the launcher's report was seen: the pod must not end before its release
    await sandbox.link.call("release")
    assert await outcome(sandbox) == 1
    assert (await sandbox.link.call("zeroise"))["podUid"] == sandbox.uid
    notes = {(note.event, note.code) for note in await world.mailbox.link.notes(TASK)}
    assert ("Failed", failure) in notes


async def test_a_program_that_is_never_started_is_no_program_that_takes_too_long(world: World, short_deadlines: None) -> None:
    await world.start(solo(compute=2))
    [sandbox] = world.sandboxes
    await world.meet()
    assert await sandbox.until("exited") == {"how": "NotStarted", "code": 0}  # its image never came
    assert (await sandbox.until("failed"))["code"] == "ProgramNotStarted"


async def test_an_input_granted_by_a_stranger_is_refused_before_it_is_opened(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    item = sealed_object("north", b"n" * 1000)
    await world.start(star([item], port=free_port()))
    await serve_object(world.stores[0].service, item)
    await world.meet()
    monkeypatch.setattr(sandbox_net, "OWNER", SigningKey(secret=b"\x66" * 32))
    await deliver(world.stores[0], item, node=FIRST_STORE, index=1, published=world.published)
    assert (await world.sandboxes[1].until("failed"))["code"] == "InputRefused"
    assert (await world.stores[0].event("delivery-failed"))["code"] == "InputRefused"
    assert list((world.sandboxes[1].root / "in").iterdir()) == []
    assert not world.sandboxes[1].service.ready_port


async def test_inputs_that_never_come_are_a_timeout(world: World, short_deadlines: None) -> None:
    item = sealed_object("north", b"n" * 1000)
    await world.start(star([item], port=free_port(), compute=1))
    await world.meet()
    assert (await world.sandboxes[1].until("failed"))["code"] == "InputTimeout"


async def test_a_peer_whose_operator_hands_over_late_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_HELLO_SECONDS", 2.0)
    objects = [sealed_object("north", b"n" * 1000), sealed_object("south", b"s" * 1000)]
    world.publish = False
    await world.start(star(objects, port=free_port()))
    for operator, item in zip(world.stores, objects, strict=True):
        await serve_object(operator.service, item)
    await world.meet()
    hub, *sites = world.sandboxes
    for site in sites:
        await site.link.call("published", **world.published.document())
    await asyncio.sleep(3)  # the hub's operator is restarted meanwhile
    await hub.link.call("published", **world.published.document())
    await world.deliver(objects)
    for site in sites:
        await site.until("inputs", count=2)
        await site.start_program(SITE)
    await hub.start_program(HUB.format(sites=2))
    for sandbox in world.sandboxes:
        assert await sandbox.until("exited") == {"how": "Exited", "code": 0}


async def test_a_program_that_fails_because_its_peer_ended_is_not_blamed_for_it(world: World) -> None:
    objects = [sealed_object("north", b"n" * 1000), sealed_object("south", b"s" * 1000)]
    await world.start(star(objects, port=free_port()))
    for operator, item in zip(world.stores, objects, strict=True):
        await serve_object(operator.service, item)
    hub, lost, _ = world.sandboxes
    await world.meet()
    await world.deliver(objects)
    await lost.until("inputs", count=2)
    await hub.start_program("import os, sys; os.write(1, b'ready'); sys.exit(1)")
    await hub.until("started")
    await asyncio.sleep(1)  # streams are gone before their peer is missed
    await lost.link.call("zeroise")
    assert await hub.until("failed") == {"code": "PeerLost", "fatal": True, "peer": 1}
    assert await hub.until("exited") == {"how": "Exited", "code": 1}


@pytest.mark.parametrize("least", [1, 2])
async def test_a_peer_that_vanishes_ends_the_task_only_if_too_few_are_left(world: World, least: int) -> None:
    objects = [sealed_object("north", b"n" * 1000), sealed_object("south", b"s" * 1000)]
    await world.start(dataclasses.replace(star(objects, port=free_port()), quorum=Quorum(role="site", min=least)))
    for operator, item in zip(world.stores, objects, strict=True):
        await serve_object(operator.service, item)
    hub, lost, left = world.sandboxes
    await world.meet()
    await world.deliver(objects)
    await hub.start_program(HUB.format(sites=1))
    await hub.until("started")
    for site in (lost, left):
        await site.until("inputs", count=2)
    await lost.link.call("zeroise")
    assert await hub.until("failed") == {"code": "PeerLost", "fatal": least == 2, "peer": 1}
    if least == 2:
        assert (await hub.until("exited"))["how"] == "Stopped"
        return
    await left.start_program(SITE)
    assert await hub.until("exited") == {"how": "Exited", "code": 0}
    # The group's key does its work without one of the group.
    info = parse_sealed_result(await hub.until("result"))
    verify_result(domain=DOMAIN, task=TASK, result_hash=info.result_hash, signature=info.signature, key=world.published.key)
    await hub.until("delivered")
    assert await world.mailbox.link.result_info(TASK) is not None
    assert {"peer": 2, "sent": 6, "received": 1000} in (await hub.until("flushed"))["links"]


async def test_commands_may_be_repeated_but_not_changed_and_not_come_early(world: World) -> None:
    await world.start(solo())
    [sandbox] = world.sandboxes
    for early in ("offer", "acceptance", "published"):
        with pytest.raises(Refused) as refused:
            await sandbox.link.call(early)
        assert refused.value.reason == "TooEarly"
    owners, port = [sandbox.chain_key], world.mailbox.service.listener.port
    good = sandbox.configuration(owners, world.mailbox.directory, port)
    with pytest.raises(Refused) as wrong:
        await sandbox.link.call("configure", **dataclasses.replace(good, pod_uid=PodUid("another-pod")).document())
    assert wrong.value.reason == "WrongPod"
    await world.meet()
    await sandbox.link.call("configure", **good.document())
    await sandbox.make_offer()
    await sandbox.accept()
    await sandbox.link.call("published", **world.published.document())
    for changed in (dataclasses.replace(good, incarnation=2), dataclasses.replace(good, nonce=b"\x01" * 32)):
        with pytest.raises(Refused) as told:
            await sandbox.link.call("configure", **changed.document())
        assert told.value.reason == "AlreadyTold"
    # Relays come and go: another directory alone is fine.
    await sandbox.link.call("configure", **dataclasses.replace(good, directory=good.directory[:3]).document())
    assert len(sandbox.service.life.directory.directory) == 3
    with pytest.raises(Refused):
        await sandbox.link.call("offer", serverSignature="0x" + "11" * 65)


async def test_a_published_key_of_other_sandboxes_is_refused(world: World) -> None:
    await world.start(solo())
    [sandbox] = world.sandboxes
    world.publish = False
    await world.meet()
    await sandbox.link.call("published", **dataclasses.replace(world.published, statements=(b"\x01" * 32,)).document())
    assert (await sandbox.until("failed"))["code"] == "StatementRefused"


async def test_an_offer_that_the_assigned_server_did_not_countersign_is_refused_here_too(world: World) -> None:
    await world.start(solo())
    [sandbox] = world.sandboxes
    await configure(world, sandbox)
    await sandbox.until("ready")
    sandbox.chain_key = SigningKey(secret=b"\x77" * 32)
    with pytest.raises((Refused, ProtocolViolation)):
        await sandbox.make_offer()
