"""Who watches every link at once, with an exact clock: what can be told, and what cannot.

Two runs of the virtual network differ in nothing but what was said; the digest is over the time and size of every delivery.
"""

import asyncio
import contextlib
import os

import numpy as np
import pytest
from tests.support.virtual_onion import SERVICE, world

from veilpod.core.onion.geometry import GEOMETRY, CellClass
from veilpod.errors import VeilpodError
from veilpod.net.host import HostPoint

BLOCK = 16
MEGABYTES = int(os.environ.get("VEILPOD_BLOCKS_MB", "4"))  # 512 there and back are a gigabyte on each link: a minute, and 6 GB of memory
MOST = GEOMETRY[CellClass.SMALL].inner_data_max


def observed(*said: bytes, rate: int = 0) -> str:
    """Everything that could be seen of a meeting of half a minute on circuits of SMALL cells, in which these were said and echoed."""
    with world(4) as w:

        async def echo(waiting: HostPoint) -> None:
            _, stream = await (await waiting.accept()).accept_stream()
            with contextlib.suppress(VeilpodError):
                while data := await stream.read():
                    await stream.write(data)

        async def meet() -> HostPoint:
            point = await w.proxy(cell_class=CellClass.SMALL, constant_rate=rate).rendezvous()
            w.net.hosts["172.16.9.1"].start(echo(point))
            return point

        async def say(point: HostPoint) -> None:
            begin = w.net.loop.time()
            session = await w.proxy(cell_class=CellClass.SMALL, constant_rate=rate).connect(
                relay=point.relay, cookie=point.cookie, service_key=point.service_key
            )
            stream = await session.open_stream("s")
            for message in said:
                await stream.write(message)
                await stream.readexactly(len(message))
                await asyncio.sleep(0.1)
            await asyncio.sleep(begin + 30 - w.net.loop.time())
            await session.close()
            await asyncio.sleep(10)

        w.run(say(w.net.run(w.net.host("172.16.9.1").start(meet()))))
        return w.net.digest()


@pytest.mark.parametrize(
    ("said", "or_else"),
    [
        ([b"y"], [b"n"]),
        ([b"y"], [bytes(MOST)]),  # any length that fits a cell
        ([b"sell", b"buy it all"], [b"buy it all", b"sell"]),  # any order
    ],
)
def test_what_is_said_cannot_be_told_from_when_and_how_much(said, or_else):
    assert observed(*said) == observed(*or_else)


@pytest.mark.parametrize(
    ("said", "or_else"),
    [
        ([b"y"], [bytes(2 * MOST)]),  # more than a cell: until padding rounds it up, its times show
        ([b"y"], [b"y", b"y"]),  # that something is said
    ],
)
def test_what_the_page_does_not_promise_can_be_told(said, or_else):
    assert observed(*said) != observed(*or_else)


@pytest.mark.parametrize("said", [[bytes(2 * MOST)], [b"y"] * 20, [bytes(300_000), b"and more"]])
def test_at_a_constant_rate_nothing_can_be_told(said):
    assert observed(*said, rate=1 << 17) == observed(rate=1 << 17)


def test_no_block_is_on_two_links_or_twice_on_one():
    """Not in the masked headers, the layers, the fill, nor in what is behind short messages and credit."""
    with world() as w:
        w.net.captured = {}

        async def say() -> None:
            bulk, small = await w.proxy().open(SERVICE, 80), await w.proxy(cell_class=CellClass.SMALL).open(SERVICE, 80)
            for stream, size in ((bulk, MEGABYTES << 20), (small, 64 << 10)):
                await asyncio.gather(stream.write(bytes(size)), stream.readexactly(size))
                await stream.write(b"short")
                await stream.readexactly(5)
                await stream.close()
            await asyncio.sleep(5)

        w.run(say())
        links = [data for data in w.net.captured.values() if data[BLOCK : 2 * BLOCK] != bytes(BLOCK)]  # not the service's zeros
        assert sum(map(len, links)) > 6 * (MEGABYTES << 20)
        words = [np.frombuffer(data, "<u8", len(data) // BLOCK * 2).reshape(-1, 2) for data in links]
        # Half a block is enough to find those that could be equal: of 2^28 blocks one pair in five hundred runs.
        halves = np.concatenate([each[:, 0] for each in words])
        halves.sort()
        suspects = halves[1:][halves[1:] == halves[:-1]]
        equal = np.concatenate([each[np.isin(each[:, 0], suspects)] for each in words])
        assert len(np.unique(equal, axis=0)) == len(equal)
