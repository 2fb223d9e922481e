"""A session outlives its circuits: relays that crash, fall silent or lie cost time, never bytes (on the virtual network)."""

import asyncio
import random
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.evil_relays import NAMED, WAYS, evil
from tests.support.virtual_onion import World, world

from veilpod.core.onion.geometry import GEOMETRY, WINDOW, CellClass
from veilpod.errors import CircuitFailed
from veilpod.net.onion import OnionProxy
from veilpod.net.session import MEND_SECONDS, OnionSession

BIG = random.Random(5).randbytes(3_000_000)
MUCH = random.Random(6).randbytes((WINDOW[CellClass.BULK].circuit + 300) * GEOMETRY[CellClass.BULK].inner_data_max)


async def meet(host: OnionProxy, guest: OnionProxy) -> tuple[OnionSession, OnionSession]:
    """Return the guest's end and the host's."""
    point = await host.rendezvous()
    accepting = asyncio.create_task(point.accept())
    session = await guest.connect(relay=point.relay, cookie=point.cookie, service_key=point.service_key)
    return session, await accepting


def path(proxy: OnionProxy) -> list[int]:
    """Node ids of the relays of a proxy's only circuit, guard first."""
    [circuit] = proxy._circuits
    return [int(entry.node_id) for entry in circuit.path]


async def transfer(giver: OnionSession, taker: OnionSession, data: bytes, *, harm=None, at: int = 500_000) -> bytes:
    """Carry data over a stream of its own; do harm when some of it has arrived."""
    opening = asyncio.create_task(giver.open_stream("file"))
    _, reading = await taker.accept_stream()
    stream = await opening

    async def write() -> None:
        await stream.write(data)
        await stream.write_eof()

    writing = asyncio.create_task(write())
    got = bytearray()
    while piece := await reading.read():
        got += piece
        if harm is not None and len(got) >= at:
            doing, harm = harm, None
            await doing()
    await writing
    return bytes(got)


async def fail(w: World, bad: dict, relay: int, way: str) -> None:
    """Let a relay fail in one of the ways in which machines and people do."""
    if way == "crashes":
        w.net.hosts[f"10.{relay}.0.1"].crash()
    elif way == "ends":
        await w.relays[relay].close()
    else:
        bad[w.relays[relay]] = way


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("place", ["guest's guard", "guest's middle", "meeting relay", "host's middle", "host's guard"])
@pytest.mark.parametrize("way", ["crashes", "ends", *WAYS])
def test_a_transfer_finishes_whatever_relay_fails_in_whatever_way(way, place, up):
    with world(9) as w, evil() as bad:

        async def run():
            host, guest = w.proxy(), w.proxy()
            ends = await meet(host, guest)
            circuits = [*host._circuits, *guest._circuits]
            guests, hosts = path(guest), path(host)
            relay = {"guest's": guests, "host's": hosts, "meeting": guests[1:]}[place.split()[0]][
                {"guard": 0, "middle": 1, "relay": 1}[place.split()[1]]
            ]
            begin = w.net.loop.time()
            giver, taker = ends if up else ends[::-1]
            got = await transfer(giver, taker, BIG, harm=lambda: fail(w, bad, relay, way))
            blamed = [circuit.error.blamed for circuit in circuits if isinstance(circuit.error, CircuitFailed) and circuit.error.blamed]
            return got, w.net.loop.time() - begin, relay, blamed

        got, took, relay, blamed = w.run(run())
    assert got == BIG
    assert took < MEND_SECONDS
    if way in ("crashes", "ends", *NAMED):
        assert all(relay in link for link in blamed)
        assert blamed or way == "crashes"  # which is silence, until the link's own patience ends


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_bytes_arrive_once_and_in_order_while_relays_come_and_go(seed):
    chance = random.Random(seed)
    with world(9) as w, evil() as bad:

        async def weather():
            while True:
                await asyncio.sleep(chance.uniform(1, 20))
                bad.clear()
                bad[w.relays[chance.choice(sorted(w.relays))]] = chance.choice(sorted(WAYS))

        async def run():
            guest, host = await meet(w.proxy(), w.proxy())
            storm = asyncio.create_task(weather())
            data = [chance.randbytes(chance.randrange(1_000_000)) for _ in range(12)]
            for number, each in enumerate(data):
                ends = (guest, host) if number % 2 else (host, guest)
                assert await transfer(*ends, each) == each
                await asyncio.sleep(chance.uniform(0, 10))
            storm.cancel()

        w.run(run())


def test_a_session_that_carries_much_takes_a_second_leg_over_other_relays_and_is_faster():
    def carry() -> tuple[float, list[set[int]]]:
        with world(40, rate=4e6) as w:  # so many that the two ends hardly choose the same relay

            async def run():
                host, guest = w.proxy(), w.proxy()
                ends = await meet(host, guest)
                begin = w.net.loop.time()
                assert await transfer(*ends, MUCH) == MUCH
                paths = [{int(entry.node_id) for entry in circuit.path} for circuit in guest._circuits]
                return w.net.loop.time() - begin, paths

            return w.run(run())

    with mock.patch.object(OnionSession, "_count"):
        alone, [_] = carry()
    beside, [first, second] = carry()
    assert len(first) == len(second) == 3
    assert not first & second
    assert beside < 0.75 * alone


def test_an_end_that_is_gone_without_a_word_is_noticed():
    with world(6) as w:

        async def run():
            host = w.net.host("172.31.0.1")
            point = await host.start(w.proxy().rendezvous())
            accepting = host.start(point.accept())
            guest = await w.proxy().connect(relay=point.relay, cookie=point.cookie, service_key=point.service_key)
            await accepting
            host.crash()
            begin = w.net.loop.time()
            with pytest.raises(CircuitFailed):
                await guest.accept_stream()
            return w.net.loop.time() - begin

        assert w.run(run()) < MEND_SECONDS + 60


def test_an_end_that_leaves_says_so():
    with world(6) as w:

        async def run():
            leaving, staying = w.proxy(), w.proxy()
            session, _ = await meet(leaving, staying)
            await leaving.close()
            begin = w.net.loop.time()
            with pytest.raises(CircuitFailed, match="left"):
                await session.accept_stream()
            await asyncio.sleep(60)
            assert not staying._circuits  # it looks for nobody
            return w.net.loop.time() - begin - 60

        assert w.run(run()) < 1


def test_a_host_whose_meeting_relay_dies_before_the_guest_comes_is_met_elsewhere():
    with world(6) as w:

        async def run():
            host = w.proxy()
            point = await host.rendezvous()
            accepting = asyncio.create_task(point.accept())
            await w.relays[int(point.relay)].close()
            await asyncio.sleep(5)
            guest = await w.proxy().connect(relay=point.relay, cookie=point.cookie, service_key=point.service_key)
            assert await transfer(guest, await accepting, BIG) == BIG

        w.run(run())


def test_an_idle_session_notices_a_silent_path_and_is_well_again_before_it_is_needed():
    with world(9) as w, evil() as bad:

        async def run():
            host, guest = w.proxy(), w.proxy()
            ends = await meet(host, guest)
            bad[w.relays[path(guest)[1]]] = "drops"
            await asyncio.sleep(60)
            begin = w.net.loop.time()
            assert await transfer(*ends, b"hello") == b"hello"
            return w.net.loop.time() - begin

        assert w.run(run()) < 1


def test_nobody_joins_a_session_without_its_key():
    with world(9) as w:

        async def run():
            host, guest = w.proxy(), w.proxy()
            ends = await meet(host, guest)
            ends[0]._meet_again.__self__._key = bytes(32)
            await w.relays[path(guest)[0]].close()
            with pytest.raises(CircuitFailed, match="could not meet again"):
                await ends[1].accept_stream()

        w.run(run())


@pytest.mark.parametrize("way", ["crashes", "drops", "truncates"])
def test_a_session_of_constant_rate_outlives_a_relay_too(way):
    with world(9) as w, evil() as bad:

        async def run():
            host, guest = w.proxy(constant_rate=1 << 20), w.proxy(constant_rate=1 << 20)
            ends = await meet(host, guest)
            relay = path(guest)[1]
            assert await transfer(*ends, BIG, harm=lambda: fail(w, bad, relay, way)) == BIG

        w.run(run())
