"""Congestion control on virtual hosts: a client 50 ms from its last relay, behind a line of 100 Mbit/s that everything shares."""

import asyncio
import contextlib
from collections.abc import Iterator

import pytest
from tests.support.virtual_onion import SERVICE, World, world

RATE = 12.5e6
FLOOD = "198.18.0.2"  # a service that says more than anybody takes, and takes all that is said


class Client:
    """A client with transfers, each on a circuit of its own, and one more circuit for round trips."""

    def __init__(self, w: World) -> None:
        self.w, self.proxy = w, w.proxy()
        self.taken: list[int] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Client":
        self._echo = await self.proxy.open(SERVICE, 80)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def transfer(self, *, up: bool) -> None:
        self.taken.append(0)
        self._tasks.append(asyncio.create_task(self._transfer(len(self.taken) - 1, up)))

    async def _transfer(self, number: int, up: bool) -> None:
        stream = await self.proxy.open(FLOOD, 80)
        await stream.write(b"U" if up else b"D")
        while True:
            if up:
                await stream.write(bytes(stream.piece))
                self.taken[number] += stream.piece
            else:
                self.taken[number] += len(await stream.read(1 << 20))

    async def round_trips(self, seconds: float) -> list[float]:
        """Seconds of round trips, each begun a while after the last one."""
        loop, found = asyncio.get_running_loop(), []
        end = loop.time() + seconds
        while (begin := loop.time()) < end:
            await self._echo.write(b"x")
            await self._echo.readexactly(1)
            found.append(loop.time() - begin)
            await asyncio.sleep(0.1)
        return found

    async def measure(self, seconds: float) -> tuple[list[float], list[float]]:
        """Bytes a second of each transfer, and round trips beside them."""
        before, begin = list(self.taken), self.w.net.loop.time()
        trips = await self.round_trips(seconds)
        took = self.w.net.loop.time() - begin
        return [(after - start) / took for start, after in zip(before, self.taken, strict=True)], trips


async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
        if await reader.readexactly(1) == b"U":
            while await reader.read(65536):
                pass
        else:
            while True:
                writer.write(bytes(65536))
                await writer.drain()


@contextlib.contextmanager
def far() -> Iterator[World]:
    with world(distance=0.05 / 6) as w:
        for relay in w.relays.values():
            relay.policy.replace([f"{SERVICE}:80", f"{FLOOD}:80"])
        w.net.run(w.net.host(FLOOD).start(asyncio.start_server(flood, FLOOD, 80)))
        yield w


def run(w: World, work):
    return w.net.run(w.net.host("172.31.0.1", rate=RATE).start(work))


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
def test_a_transfer_fills_the_line_and_round_trips_beside_it_take_no_more_than_twice_as_long(up):
    with far() as w:

        async def story():
            async with Client(w) as client:
                idle = await client.round_trips(3)
                client.transfer(up=up)
                await asyncio.sleep(3)
                return idle, await client.measure(30)

        idle, ([rate], busy) = run(w, story())
    echoes = len(busy) * 65536 / 30  # a cell of each round trip takes its part of the line
    assert rate + echoes >= 0.9 * RATE
    assert max(busy) <= 2 * max(idle)


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
def test_two_transfers_share_the_line_alike_though_one_came_later(up):
    with far() as w:

        async def story():
            async with Client(w) as client:
                client.transfer(up=up)
                await asyncio.sleep(4)
                client.transfer(up=up)
                await asyncio.sleep(15)
                return await client.measure(20)

        rates, _ = run(w, story())
    assert sum(rates) ** 2 / (2 * sum(rate**2 for rate in rates)) >= 0.95
    assert sum(rates) >= 0.85 * RATE


def test_a_transfer_is_as_fast_as_before_a_few_seconds_after_a_stall():
    with far() as w:

        async def story():
            async with Client(w) as client:
                client.transfer(up=False)
                await asyncio.sleep(5)
                links = [link for relay in w.relays.values() for link in relay.links]
                for link in links:
                    link.pause_reading()
                await asyncio.sleep(8)
                for link in links:
                    link.resume_reading()
                await asyncio.sleep(3)
                return await client.measure(5)

        [rate], _ = run(w, story())
    assert rate >= 0.85 * RATE


def test_a_session_fills_the_line_of_its_taker_and_words_beside_it_are_not_late():
    async def give(session):
        stream = await session.open_stream("file")
        while True:
            await stream.write(bytes(stream.piece))

    async def answer(session):
        _, stream = await session.accept_stream()
        while data := await stream.read():
            await stream.write(data)

    with far() as w:

        async def story():
            there, host, guest, ends = w.net.host("172.31.0.2"), w.proxy(), w.proxy(), []
            for _ in range(2):
                point = await there.start(host.rendezvous())
                accepting = there.start(point.accept())
                ends.append((await guest.connect(relay=point.relay, cookie=point.cookie, service_key=point.service_key), await accepting))
            tasks = [there.start(give(ends[0][1])), there.start(answer(ends[1][1]))]
            words = await ends[1][0].open_stream("words")
            client = Client(w)
            client._echo = words
            idle = await client.round_trips(3)
            client.taken.append(0)
            _, file = await ends[0][0].accept_stream()

            async def take():
                while True:
                    client.taken[0] += len(await file.read(1 << 20))

            tasks.append(asyncio.create_task(take()))
            await asyncio.sleep(3)
            found = await client.measure(10)
            for task in tasks:
                task.cancel()
            return idle, found

        idle, ([rate], busy) = run(w, story())
    assert rate >= 0.85 * RATE
    assert max(busy) <= 2 * max(idle)
