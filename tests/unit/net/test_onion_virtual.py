"""The onion network on virtual hosts: what takes hours, or a line of one's own, or a machine that dies without a word."""

import asyncio

import pytest
from bench.virtual import Scenario, distance, simulate
from tests.support.virtual_onion import SERVICE, world

from veilpod.core.onion.geometry import GEOMETRY, WINDOW, CellClass
from veilpod.core.onion.messages import DestroyReason
from veilpod.core.onion.reports import Side
from veilpod.errors import CircuitFailed
from veilpod.relay.router import Relay

CELL = GEOMETRY[CellClass.BULK].cell


def test_the_same_run_is_the_same_to_the_last_delivery_and_another_is_not():
    scenario = Scenario(relays=20, flows=5, size=200_000, rate=12.5e6, distance=distance, spread=0.5)
    first, again, other = simulate(scenario), simulate(scenario), simulate(scenario, seed=2)
    assert first.digest == again.digest
    assert first.flows == again.flows
    assert first.digest != other.digest


def test_a_circuit_costs_one_round_trip_once_its_links_are_up():
    with world() as w:

        async def twice():
            proxy, loop = w.proxy(), w.net.loop
            await proxy.rendezvous()
            begin = loop.time()
            await proxy.rendezvous()
            return loop.time() - begin

        # There and back over three links, for the circuit and for the cookie: 10 ms each way.
        assert w.run(twice()) == pytest.approx(2 * 6 * 0.01, rel=0.1)


def test_a_machine_that_dies_without_a_word_is_noticed_and_blamed_within_two_minutes():
    with world() as w:

        async def talk():
            loop, seen = w.net.loop, []
            stream = await w.proxy(trace=seen.append).open(SERVICE, 80)
            await stream.write(b"x")
            assert await stream.read() == b"x"
            dead = seen[0].relays[1]
            w.net.hosts[f"10.{dead}.0.1"].crash()
            begin = loop.time()
            with pytest.raises(CircuitFailed) as caught:
                await stream.read()
            assert dead in caught.value.blamed
            return loop.time() - begin

        assert w.run(talk()) < 120


def test_an_idle_hour_is_padding_of_one_size_at_times_nobody_can_guess():
    with world() as w:

        async def idle():
            await w.proxy().rendezvous()
            await asyncio.sleep(1)
            before = w.net.bytes_delivered
            await asyncio.sleep(3600)
            return w.net.bytes_delivered - before

        cells = w.run(idle()) / GEOMETRY[CellClass.SMALL].cell
        assert cells == int(cells)
        # Three links, both ways, one every 1.5 to 9.5 seconds.
        assert 6 * 3600 / 9.5 < cells < 6 * 3600 / 1.5


def test_an_hour_of_churn_leaves_nothing_behind():
    with world(6) as w:

        async def churn():
            proxies = [w.proxy() for _ in range(5)]
            for number in range(1100):  # the directory is good for an hour: nobody sends heartbeats here
                stream = await proxies[number % 5].open(SERVICE, 80)
                await stream.write(bytes(1000))
                await stream.readexactly(1000)
                await stream.close()
                await asyncio.sleep(3)
            for proxy in proxies:
                await proxy.close()
            await asyncio.sleep(300)

        w.run(churn())
        for relay in w.relays.values():
            assert not relay.circuits
            assert not relay.links  # between relays, too: nobody needs them
            assert relay.queued == 0


def test_flows_that_share_a_slow_relay_share_it_alike():
    with world(rate=2e6) as w:

        async def flow():
            begin = w.net.loop.time()
            stream = await w.proxy().open(SERVICE, 80)
            await asyncio.gather(stream.write(bytes(2_000_000)), stream.readexactly(2_000_000))
            return w.net.loop.time() - begin

        async def flows():
            return await asyncio.gather(*(flow() for _ in range(8)))

        took = w.run(flows())
        assert sum(took) ** 2 / (len(took) * sum(each**2 for each in took)) > 0.95


def test_behind_a_slow_line_relays_hold_no_more_than_a_window():
    with world(rate=125e6) as w:
        slow = w.net.host("172.31.0.1", rate=0.5e6)
        held = []

        async def take():
            stream = await w.proxy().open(SERVICE, 80)
            writing = asyncio.create_task(stream.write(bytes(8_000_000)))
            await asyncio.sleep(0.1)
            for _ in range(80):
                await stream.readexactly(100_000)
                held.append(sum(relay.queued for relay in w.relays.values()))
            await writing

        w.net.run(slow.start(take()))
        assert max(held) <= (WINDOW[CellClass.BULK].circuit + 4) * CELL


def refuse(relay: Relay) -> list[float]:
    """Let a relay refuse every circuit from now on. Returns when it did."""
    times: list[float] = []

    def on_create(link, circ_id, payload):
        times.append(asyncio.get_running_loop().time())
        link.send_destroy(circ_id, DestroyReason.RESOURCE)

    relay.on_create = on_create
    return times


def test_relays_that_always_refuse_are_soon_avoided_and_blind_damage_falls():
    """Blind damage (docs/protocol/onion.md): circuits that an attacker kills without knowing whose they are; here, 2 of its 10 relays."""
    with world(10) as w:
        refused = [refuse(w.relays[number]) for number in (4, 9)]

        async def transmit():
            proxy = w.proxy()
            hurt = []
            for _ in range(400):
                before = sum(map(len, refused))
                stream = await proxy.open(SERVICE, 80)
                await stream.write(b"x")
                assert await stream.readexactly(1) == b"x"
                await stream.close()
                hurt.append(sum(map(len, refused)) > before)
                await asyncio.sleep(3)
            return hurt

        hurt = w.run(transmit())
        chosen_blindly = 1 - (8 / 10) * (7 / 9) * (6 / 8)  # 0.53
        assert sum(hurt[-300:]) / 300 < chosen_blindly / 10


def test_a_relay_that_works_again_is_used_again():
    with world(6) as w:
        relay = w.relays[4]

        async def use(proxy, times):
            for _ in range(times):
                stream = await proxy.open(SERVICE, 80)
                await stream.write(b"x")
                await stream.readexactly(1)
                await stream.close()

        async def story():
            proxy = w.proxy()
            refuse(relay)
            await use(proxy, 30)
            del relay.on_create
            await asyncio.sleep(3000)  # the directory is good for an hour
            before = relay.counters["creates"]
            await use(proxy, 20)
            return relay.counters["creates"] - before

        assert w.run(story()) > 2


def test_a_relay_that_breaks_circuits_after_they_were_built_is_avoided_too():
    with world(8) as w:
        bad = w.relays[5]

        async def transmit():
            proxy, broken = w.proxy(), []
            for _ in range(120):
                try:
                    stream = await proxy.open(SERVICE, 80)
                    for circuit in list(bad.circuits):
                        circuit.destroy(DestroyReason.LINK_LOST, Side.PREVIOUS)
                    await stream.write(b"x")
                    await stream.readexactly(1)
                    await stream.close()
                    broken.append(False)
                except (CircuitFailed, EOFError):
                    broken.append(True)
                await asyncio.sleep(3)
            return broken

        broken = w.run(transmit())
        assert any(broken[:20])
        assert sum(broken[-100:]) < 10
