"""What an observer counts: transfers of like sizes look the same, both ways, whoever ends them."""

import asyncio
import collections

import pytest
from tests.support.onion import meet, network, service, until

from veilpod.core.onion.geometry import CellClass
from veilpod.errors import PeerUnavailable
from veilpod.net.circuit import CircuitSummary
from veilpod.relay.circuit import RelayCircuit

MEGABYTE = 1_000_000


async def seen_by_an_observer(up: int, down: int) -> tuple[int, int]:
    """Bytes each way of a circuit over which so much was sent and taken."""
    taken = asyncio.Event()

    async def giver(reader, writer):
        await reader.readexactly(up)
        taken.set()
        writer.write(bytes(down))
        writer.close()
        await writer.wait_closed()

    async with network(3) as net, service(giver) as port:
        net.allow(port)
        seen: list[CircuitSummary] = []
        stream = await net.proxy(trace=seen.append).open("127.0.0.1", port)
        await stream.write(bytes(up))
        await stream.write_eof()
        if down:
            await stream.readexactly(down)
        await taken.wait()
        await stream.close()
        await until(lambda: seen[-1].state == "closed")
        await until(lambda: not any(relay.circuits for relay in net.relays.values()))
        small = 4096  # SENDMEs: their number follows from the other direction's
        return seen[-1].bytes_sent // 65536, (seen[-1].bytes_received - small) // 65536


@pytest.mark.parametrize("likes", [[(1.2, 0), (1.7, 0)], [(0, 1.2), (0, 1.5)], [(2.2, 1.2), (2.25, 1.3)]])
async def test_transfers_of_like_sizes_look_the_same(likes):
    found = [await seen_by_an_observer(int(up * MEGABYTE), int(down * MEGABYTE)) for up, down in likes]
    assert len(set(found)) == 1


async def test_transfers_of_other_sizes_do_not():
    assert await seen_by_an_observer(MEGABYTE, 0) != await seen_by_an_observer(3 * MEGABYTE, 0)


async def test_a_meeting_is_padded_by_both_sides_before_it_ends(monkeypatch):
    seen = collections.Counter()

    def count(self, header, cell, original=RelayCircuit.on_layered):
        seen[header.cell_class] += 1  # small ones are SENDMEs, as many as data asks for, and ACKs, as many as time does
        original(self, header, cell)

    monkeypatch.setattr(RelayCircuit, "on_layered", count)
    async with network() as net:
        counts = []
        for size in (2_300_000, 2_320_000):
            seen.clear()
            guest, host = await meet(net)
            for giver, taker in ((guest, host), (host, guest)):
                stream, (_, far) = await giver.open_stream("s"), await taker.accept_stream()
                writing = asyncio.create_task(stream.write(bytes(size)))
                await far.readexactly(size)
                await writing
            await guest.close()
            await until(lambda: not any(relay.circuits for relay in net.relays.values()))
            counts.append(seen[CellClass.BULK])
        assert counts[0] == counts[1]


async def test_a_session_that_ends_with_a_stream_open_is_no_clean_end_for_its_reader():
    async with network() as net:
        guest, host = await meet(net)
        stream = await guest.open_stream("s")
        _, far = await host.accept_stream()
        await stream.write(b"half of it")
        await guest.close()
        assert await far.read() == b"half of it"
        with pytest.raises(PeerUnavailable, match="reset"):
            await far.read()
