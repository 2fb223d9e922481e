"""An agent's circuits: what is in the way is waited out and told, within a bound, and never with fewer hops."""

import asyncio
import contextlib
import dataclasses

import pytest
from tests.support.onion import network
from tests.support.sandbox_net import Sandbox, World, sealed_object, star

from veilpod.agent.patience import PatientOnion
from veilpod.core.onion.directory import RelayEntry
from veilpod.core.task import spec
from veilpod.core.task.spec import Deadlines
from veilpod.errors import CircuitFailed, PeerUnavailable, Refused


async def test_a_directory_that_shrinks_to_nothing_is_waited_for_with_all_hops():
    async with network(3) as net:
        listed: list[RelayEntry] = []
        told, paths = [], []
        onion = PatientOnion(net.proxy(directory=lambda: listed, trace=paths.append), seconds=30, tell=told.append)
        meeting = asyncio.create_task(onion.rendezvous())
        for count in (1, 2):
            await asyncio.sleep(0.3)
            listed[:] = list(net.entries.values())[:count]
        assert not meeting.done()
        listed[:] = net.entries.values()
        async with asyncio.timeout(20):
            await meeting
        assert set(told[:-1]) == {"TooFewRelays"}
        assert told[-1] == ""
        assert {len(path.relays) for path in paths} == {3}


async def test_when_patience_is_over_the_reason_is_the_last_one():
    async with network(3) as net:
        onion = PatientOnion(net.proxy(directory=list), seconds=0.5, tell=lambda _: None)
        with pytest.raises(Refused) as caught:
            await onion.rendezvous()
        assert caught.value.reason == "TooFewRelays"


async def test_relays_that_stall_are_told_while_others_are_still_tried(monkeypatch):
    monkeypatch.setattr("veilpod.net.circuit._HOP_TIMEOUT", 0.3)
    monkeypatch.setattr("veilpod.relay.router.Relay.on_create", lambda *_: None)
    async with network(3) as net:
        told: list[str] = []
        onion = PatientOnion(net.proxy(), seconds=30, tell=told.append)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.8):  # less than the proxy's four attempts take
                await onion.rendezvous()
        assert set(told) == {"RelaysUnreachable"}


async def test_a_cookie_that_nobody_left_is_not_waited_for_here():
    async with network(3) as net:
        told: list[str] = []
        onion = PatientOnion(net.proxy(), seconds=30, tell=told.append)
        point = await onion.rendezvous()
        with pytest.raises(PeerUnavailable):
            await onion.connect(relay=point.relay, cookie=bytes(20), service_key=point.service_key)
        assert set(told) == {""}


async def test_who_has_left_the_network_waits_no_longer():
    async with network(3) as net:
        onion = PatientOnion(net.proxy(), seconds=30, tell=lambda _: None)
        await onion.close()
        with pytest.raises(CircuitFailed):
            async with asyncio.timeout(5):
                await onion.rendezvous()


# --- a whole agent


async def configured(world: World, monkeypatch: pytest.MonkeyPatch, directory: list[RelayEntry], *, seconds: int = 3) -> Sandbox:
    """A hub that needs a rendezvous, and has so long for it."""
    monkeypatch.setattr(spec, "DEADLINE_SPACING", 0)
    task = dataclasses.replace(
        star([sealed_object("north", b"n")], port=4000), deadlines=Deadlines(schedule=1, inputs=seconds, compute=60, total=600)
    )
    await world.start(task)
    await tell(world, directory)
    return world.sandboxes[0]


async def tell(world: World, directory: list[RelayEntry]) -> None:
    hub, port = world.sandboxes[0], world.mailbox.service.listener.port
    arguments = hub.configuration([each.chain_key for each in world.sandboxes], directory, port)
    await hub.link.call("configure", **arguments.document())


async def test_a_directory_that_is_told_anew_ends_the_trouble(world: World, monkeypatch: pytest.MonkeyPatch):
    hub = await configured(world, monkeypatch, world.mailbox.directory[:2], seconds=60)
    assert await hub.until("relays") == {"trouble": "TooFewRelays"}
    await tell(world, world.mailbox.directory)
    await hub.until("ready")
    assert await hub.until("relays", count=2) == {"trouble": ""}


async def old(world: World) -> list[RelayEntry]:
    return [dataclasses.replace(relay, updated_at=relay.updated_at - 7200) for relay in world.mailbox.directory]


async def few(world: World) -> list[RelayEntry]:
    return world.mailbox.directory[:2]


async def one_owners(world: World) -> list[RelayEntry]:
    first = world.mailbox.directory[0]
    proofs = [relay.keys.prove(owner=first.owner, key_epoch=1, registry=first.registry, chain_id=first.chain_id) for relay in world.relays]
    return [
        dataclasses.replace(relay, owner=first.owner, proof=proof) for relay, proof in zip(world.mailbox.directory, proofs, strict=True)
    ]


async def draining(world: World) -> list[RelayEntry]:
    for relay in world.relays:
        relay.draining = True
    return world.mailbox.directory


async def gone(world: World) -> list[RelayEntry]:
    for relay in world.relays:
        await relay.close()
    return world.mailbox.directory


@pytest.mark.parametrize(
    ("relays", "code"),
    [
        (few, "TooFewRelays"),
        (one_owners, "NoDiversePath"),
        (old, "ClockSkew"),
        (draining, "RelaysFull"),
        (gone, "RelaysUnreachable"),
    ],
)
async def test_when_the_time_is_over_the_trouble_is_the_failures_code(world: World, monkeypatch: pytest.MonkeyPatch, relays, code):
    hub = await configured(world, monkeypatch, await relays(world))
    assert await hub.until("failed") == {"code": code, "fatal": True}
    assert "ready" not in hub.events
    # Nothing that leaves the sandbox names a relay or a place.
    assert hub.events["relays"] == [{"trouble": code}]
