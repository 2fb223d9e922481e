"""How a circuit comes to be, and who is blamed when it does not."""

import asyncio

import pytest
from tests.support.onion import network

from veilpod.core.onion.geometry import CellClass
from veilpod.errors import CircuitFailed
from veilpod.net.circuit import Circuit
from veilpod.relay.circuit import RelayCircuit
from veilpod.relay.limits import Limits
from veilpod.relay.router import Relay

QUICK = Limits(extend_seconds=0.9)


async def build(net, *numbers, cell_class=CellClass.SMALL) -> Circuit:
    """Build a circuit over relays in this order."""
    path = [net.entries[number] for number in numbers]
    circuit = Circuit(await net.proxy()._links.get(path[0]), path, cell_class)
    async with asyncio.timeout(10):
        await circuit.build()
    return circuit


async def blamed(net, *numbers) -> tuple[int, int] | None:
    with pytest.raises(CircuitFailed) as caught:
        await build(net, *numbers)
    return caught.value.blamed


@pytest.mark.parametrize("cell_class", list(CellClass))
async def test_three_relays_are_joined_in_one_round_trip(cell_class):
    async with network(3) as net:
        circuit = await build(net, 3, 1, 2, cell_class=cell_class)
        assert [relay.counters["creates"] for relay in net.relays.values()] == [1, 1, 1]
        assert [relay.counters["cells"] for relay in net.relays.values()] == [0, 0, 0]  # nobody was asked to EXTEND
        circuit.close()


async def test_further_relays_are_joined_one_by_one():
    async with network(5) as net:
        await build(net, 3, 1, 2, 5, 4)
        assert [net.relays[number].counters["cells"] for number in (3, 1, 2, 5, 4)] == [2, 2, 2, 1, 0]


@pytest.mark.parametrize("silent", [2, 3, 4])
async def test_a_relay_that_never_answers_is_blamed_by_the_one_before_it(silent, monkeypatch):
    async with network(4, limits=QUICK) as net:

        def on_create(self, link, circ_id, payload, original=Relay.on_create):
            if self is not net.relays[silent]:
                original(self, link, circ_id, payload)

        monkeypatch.setattr(Relay, "on_create", on_create)
        assert await blamed(net, 1, 2, 3, 4) == (silent - 1, silent)


@pytest.mark.parametrize("missing", [2, 3, 4])
async def test_a_relay_that_is_gone_is_blamed_with_the_one_that_could_not_reach_it(missing):
    async with network(4, limits=QUICK) as net:
        await net.relays[missing].close()
        assert await blamed(net, 1, 2, 3, 4) == (missing - 1, missing)


@pytest.mark.parametrize("place", [2, 700, 1150, 1156, 1170])
async def test_an_answer_that_was_altered_on_its_way_blames_the_link_behind_which_it_was_right(place, monkeypatch):
    """Relay 1 alters what relay 2 answered: its share of the handshake, its proof, or the answer of relay 3 that is sealed in it."""
    async with network(3, limits=QUICK) as net:

        def extended(self, payload, original=RelayCircuit.extended):
            if self in net.relays[1].circuits:
                payload = payload[:place] + bytes((payload[place] ^ 1,)) + payload[place + 1 :]
            original(self, payload)

        monkeypatch.setattr(RelayCircuit, "extended", extended)
        assert await blamed(net, 1, 2, 3) == (1, 2)


async def test_an_answer_too_long_for_an_honest_relay_blames_the_link_behind_which_it_came(monkeypatch):
    async with network(3, limits=QUICK) as net:

        def extended(self, payload, original=RelayCircuit.extended):
            if self in net.relays[1].circuits:
                payload = b"\x0f\xff" + bytes(0xFFF) + bytes(2)
            original(self, payload)

        monkeypatch.setattr(RelayCircuit, "extended", extended)
        assert await blamed(net, 1, 2, 3) == (1, 2)
