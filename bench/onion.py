"""The onion network on this machine: throughput beside a chain of socat, delay, fairness, the price of a circuit.

`python -m bench.onion`. Client, three relays and a server are processes of their own and share the cores, as do client, four socats and
the same server. Rounds alternate, so noise hits both; the rows are medians. Tor is not measured yet, and its rows are not there.
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import pathlib
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Protocol

from tests.support.relay_processes import RelayProcess, free_ports, processes

from bench.report import Row, write
from localcluster import toolchain
from veilpod.net.onion import OnionProxy

ROUNDS = 3
BULK = 256 << 20
PIECE = 1 << 20
PINGS = 400
BUILDS = 60
CIRCUITS, CLIENTS = 1000, 20  # a relay bounds how many circuits one link may carry
FAIR = 10
FAIR_SECONDS = 4.0
TICKS = os.sysconf("SC_CLK_TCK")


class Stream(Protocol):
    """What both ways to the server have in common."""

    async def write(self, data: bytes) -> None: ...
    async def readexactly(self, size: int) -> bytes: ...
    async def read(self, limit: int = ...) -> bytes: ...
    async def close(self) -> None: ...


# -- the server: b"U" size: takes so many bytes and says so; b"D" size: gives so many; b"E" size: echoes pieces of so many


def serve(port: int) -> None:
    """Run the server, for ever."""
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    block, taken = memoryview(os.urandom(PIECE)), memoryview(bytearray(PIECE))
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            with contextlib.suppress(OSError):
                _answer(connection, block, taken)
            os._exit(0)
        connection.close()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _answer(connection: socket.socket, block: memoryview, taken: memoryview) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = connection.recv(9, socket.MSG_WAITALL)
    if len(head) < 9:
        return  # who only looked whether we listen
    kind, size = struct.unpack(">cQ", head)
    if kind == b"D":
        for start in range(0, size, PIECE):
            connection.sendall(block[: min(PIECE, size - start)])
    elif kind == b"U":
        while size:
            size -= connection.recv_into(taken[: min(PIECE, size)]) or sys.exit(1)
        connection.sendall(b"k")
    else:
        while piece := connection.recv(size, socket.MSG_WAITALL):
            connection.sendall(piece)
    connection.recv(1)  # until the other side has closed


def listening(port: int) -> None:
    """Wait until somebody listens on a port."""
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)  # noqa: TID251 - a port has no event
    raise RuntimeError(f"nobody listens on {port}")


# -- ways to the server


class Plain:
    """A TCP connection as a stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.readexactly, self.read = reader.readexactly, reader.read

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def close(self) -> None:
        self._writer.close()


Open = Callable[[], Awaitable[Stream]]


@contextlib.contextmanager
def socats(count: int, server: int) -> Iterator[Open]:
    """A chain of socat processes in front of the server."""
    toolchain.ensure_packages({"socat": "socat"})
    ports = [*free_ports(count), server]
    chain = [
        subprocess.Popen(
            [shutil.which("socat") or "socat", "-b65536", f"TCP-LISTEN:{ours},bind=127.0.0.1,fork,reuseaddr", f"TCP:127.0.0.1:{next_}"]
        )
        for ours, next_ in itertools.pairwise(ports)
    ]

    async def open_() -> Stream:
        return Plain(*await asyncio.open_connection("127.0.0.1", ports[0], limit=PIECE))

    try:
        for port in reversed(ports):
            listening(port)
        yield open_
    finally:
        for process in chain:
            process.kill()
            process.wait()


@contextlib.asynccontextmanager
async def network(server: int, clients: int = 1) -> AsyncIterator[tuple[list[OnionProxy], list[RelayProcess]]]:
    """Three relays that exit to the server, and clients' proxies."""
    async with processes(3) as relays:
        entries = [await relay.entry() for relay in relays]
        for relay in relays:
            await relay.link.call("directory", directory=[entry.to_json() for entry in entries])
            await relay.link.call("endpoints", endpoints=[f"127.0.0.1:{server}"])
        proxies = [OnionProxy(directory=lambda: entries, hops=3, in_cluster=False) for _ in range(clients)]
        try:
            yield proxies, relays
        finally:
            for proxy in proxies:
                await proxy.close()


# -- what is measured


async def rate(open_: Open, direction: bytes, size: int = BULK) -> float:
    """MB/s of one transfer."""
    stream = await open_()
    begin = time.perf_counter()
    await stream.write(struct.pack(">cQ", direction, size))
    if direction == b"U":
        block = os.urandom(PIECE)
        for _ in range(0, size, PIECE):
            await stream.write(block)
        await stream.readexactly(1)
    else:
        left = size
        while left:
            left -= len(await stream.read(PIECE))
    seconds = time.perf_counter() - begin
    await stream.close()
    return size / seconds / 1e6


async def delays(open_: Open, count: int = PINGS) -> list[float]:
    """Milliseconds of round trips of 64 bytes, one after the other."""
    stream = await open_()
    await stream.write(struct.pack(">cQ", b"E", 64))
    found = []
    for _ in range(count):
        begin = time.perf_counter()
        await stream.write(b"." * 64)
        await stream.readexactly(64)
        found.append((time.perf_counter() - begin) * 1e3)
    await stream.close()
    return found


async def delays_beside_bulk(open_: Open) -> list[float]:
    """The same while a transfer goes on, on a circuit of its own."""
    bulk = asyncio.create_task(rate(open_, b"D", 64 << 30))
    try:
        await asyncio.sleep(0.5)
        return await delays(open_)
    finally:
        bulk.cancel()
        await asyncio.gather(bulk, return_exceptions=True)


async def builds(proxy: OnionProxy) -> list[float]:
    """Milliseconds until a circuit of three hops stands and waits at its rendezvous, over a link that is open."""
    found = []
    for _ in range(BUILDS):
        begin = time.perf_counter()
        await proxy.rendezvous()
        found.append((time.perf_counter() - begin) * 1e3)
    return found


async def fairness(open_: Open) -> float:
    """Jain's index over what parallel circuits take in the same time: 1 is equal, 1/n is one takes all."""
    taken = [0] * FAIR

    async def take(number: int) -> None:
        stream = await open_()
        await stream.write(struct.pack(">cQ", b"D", 64 << 30))
        while True:
            taken[number] += len(await stream.read(PIECE))

    tasks = [asyncio.create_task(take(number)) for number in range(FAIR)]
    await asyncio.sleep(1)
    before = list(taken)
    await asyncio.sleep(FAIR_SECONDS)
    shares = [after - start for after, start in zip(taken, before, strict=True)]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return sum(shares) ** 2 / (FAIR * sum(share**2 for share in shares))


def cpu(relays: Sequence[RelayProcess]) -> float:
    """CPU seconds that the relays have used."""
    fields = [pathlib.Path(f"/proc/{relay.process.pid}/stat").read_text().rpartition(")")[2].split() for relay in relays]
    return sum(int(field[11]) + int(field[12]) for field in fields) / TICKS


def memory(relays: Sequence[RelayProcess]) -> float:
    """MB of the relay that holds most."""
    pages = [int(pathlib.Path(f"/proc/{relay.process.pid}/statm").read_text().split()[1]) for relay in relays]
    return max(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def measure(server: int) -> list[Row]:
    """Run everything."""
    rows: list[Row] = []
    async with network(server) as ((proxy,), relays):

        def onion() -> Awaitable[Stream]:
            return proxy.open("127.0.0.1", server)

        with socats(4, server) as plain:
            for name, direction in (("up", b"U"), ("down", b"D")):
                ours, theirs, used = [], [], []
                for _ in range(ROUNDS):
                    theirs.append(await rate(plain, direction))
                    before = cpu(relays)
                    ours.append(await rate(onion, direction))
                    used.append((cpu(relays) - before) / (BULK / 1e9))
                mine, other = statistics.median(ours), statistics.median(theirs)
                rows += [
                    Row(f"mb-per-second-{name}", round(mine, 1), "MB/s over three hops", better="higher"),
                    Row(f"socat4-mb-per-second-{name}", round(other, 1), "MB/s over four socats", better="higher"),
                    Row(f"ratio-to-socat4-{name}", round(mine / other, 3), "of socat x4", 0.45, "higher"),
                    Row(f"relay-cpu-s-per-gb-{name}", round(statistics.median(used), 2), "CPU seconds of three relays"),
                ]
        idle = sorted(await delays(onion))
        busy = sorted(await delays_beside_bulk(onion))
        p99 = idle[int(0.99 * len(idle))]
        rows += [
            Row("rtt-p50-ms", round(statistics.median(idle), 2), "ms"),
            Row("rtt-p99-ms", round(p99, 2), "ms", 5.0),
            Row("rtt-p99-under-load-ratio", round(busy[int(0.99 * len(busy))] / p99, 2), "of the idle p99", 2.0),
            Row("build-p50-ms", round(statistics.median(await builds(proxy)), 2), "ms, circuit and rendezvous", 5.0),
            Row("jain-10", round(await fairness(onion), 3), "of ten circuits", 0.95, "higher"),
        ]
    async with network(server, clients=CLIENTS) as (proxies, relays):
        empty = memory(relays)
        for number in range(CIRCUITS):
            await proxies[number % CLIENTS].rendezvous()
        rows.append(Row("relay-rss-mb-1000-circuits", round(memory(relays), 1), f"MB, {empty:.0f} without circuits"))
    return rows


def main() -> int:
    """Measure, print, write build/bench/onion.json."""
    parser = argparse.ArgumentParser(prog="bench.onion", description=__doc__)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    if (port := parser.parse_args().serve) is not None:
        serve(port)
    (port,) = free_ports(1)
    server = subprocess.Popen([sys.executable, "-m", "bench.onion", "--serve", str(port)])
    try:
        listening(port)
        write("onion", asyncio.run(measure(port)))
    finally:
        server.kill()
        server.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
