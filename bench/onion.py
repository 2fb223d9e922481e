"""The onion network on this machine: throughput and CPU beside a chain of socat and beside Tor, delay, fairness, the price of a circuit.

`python -m bench.onion`. Client, three relays and a server are processes of their own and share the cores, as do client, four socats and
the same server, and a Tor client with three relays of its own, in Tor's default tuning and in the one that is fast here (bench.tor).
Rounds alternate, so noise hits all; the rows are medians.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import os
import pathlib
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Sequence

from tests.support.relay_processes import RelayProcess, free_ports

from bench.report import Row, write
from bench.tor import tor_network
from bench.ways import PIECE, Open, listening, network, serve, socats
from veilpod.net.onion import OnionProxy

ROUNDS = 3
BULK, TOR_BULK = 256 << 20, 48 << 20
PINGS = 400
BUILDS = 60
CIRCUITS, CLIENTS = 1000, 20  # a relay bounds how many circuits one link may carry
FAIR = 10
FAIR_SECONDS = 4.0
TICKS = os.sysconf("SC_CLK_TCK")
TOR = {"default-tor": "KIST,KISTLite,Vanilla", "tuned-tor": "Vanilla"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to the server: how to open a stream, how much to send for a fair sample, the relays whose CPU counts."""

    open: Open
    size: int
    relays: Sequence[int]  # process ids


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


def cpu(processes: Sequence[int]) -> float:
    """CPU seconds that processes have used."""
    fields = [pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split() for process in processes]
    return sum(int(field[11]) + int(field[12]) for field in fields) / TICKS


def memory(relays: Sequence[RelayProcess]) -> float:
    """MB of the relay that holds most."""
    pages = [int(pathlib.Path(f"/proc/{relay.process.pid}/statm").read_text().split()[1]) for relay in relays]
    return max(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def throughput(ways: dict[str, Way]) -> list[Row]:
    """MB/s both ways and CPU seconds of the relays per GB, ours beside the others'."""
    rows: list[Row] = []
    used: dict[str, list[float]] = {name: [] for name in ways}
    for name, direction in (("up", b"U"), ("down", b"D")):
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for other, way in ways.items():
                before = cpu(way.relays)
                rates[other].append(await rate(way.open, direction, way.size))
                used[other].append((cpu(way.relays) - before) / (way.size / 1e9))
        speed = {other: statistics.median(found) for other, found in rates.items()}
        rows += [Row(f"{other}-mb-per-second-{name}", round(speed[other], 1), "MB/s", better="higher") for other in ways]
        rows += [
            Row(f"ratio-to-{other}-{name}", round(speed["onion"] / speed[other], 3), f"of {unit}", bar, "higher")
            for other, unit, bar in (("socat4", "four socats", 0.45), ("tuned-tor", "Tor, tuned", 5.0), ("default-tor", "Tor", 5.0))
        ]
    price = {other: statistics.median(used[other]) for other in ways if ways[other].relays}
    rows += [Row(f"{other}-cpu-s-per-gb", round(seconds, 2), "CPU seconds of three relays") for other, seconds in price.items()]
    cheapest = min(price[other] for other in TOR)
    return [*rows, Row("cpu-ratio-to-tor", round(price["onion"] / cheapest, 3), "of the cheaper Tor's", 0.2)]


async def delay(proxy: OnionProxy, ways: dict[str, Way]) -> list[Row]:
    """Round trips, idle and beside a transfer; circuits; fairness."""
    onion = ways["onion"].open
    tor = ways["tuned-tor"].open
    idle, busy = await delays(onion), await delays_beside_bulk(onion)
    tor_idle, tor_busy = await delays(tor), await delays_beside_bulk(tor)
    p50, p99 = statistics.median(idle), _p99(idle)
    return [
        Row("rtt-p50-ms", round(p50, 2), "ms"),
        Row("rtt-p50-ratio-to-tuned-tor", round(p50 / statistics.median(tor_idle), 2), "of Tor, tuned", 2.0),
        Row("rtt-p99-ms", round(p99, 2), "ms", 5.0),
        Row("rtt-p99-under-load-ratio", round(_p99(busy) / p99, 2), "of the idle p99", 2.0),
        Row("rtt-p99-under-load-ms", round(_p99(busy), 2), "ms"),
        Row("tuned-tor-rtt-p99-under-load-ms", round(_p99(tor_busy), 2), "ms"),
        Row("build-p50-ms", round(statistics.median(await builds(proxy)), 2), "ms, circuit and rendezvous", 5.0),
        Row("jain-10", round(statistics.median([await fairness(onion) for _ in range(ROUNDS)]), 3), "of ten circuits", 0.95, "higher"),
    ]


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[int(0.99 * len(values))]


async def measure(server: int) -> list[Row]:
    """Run everything."""
    async with contextlib.AsyncExitStack() as stack:
        (proxy,), relays = await stack.enter_async_context(network(server))
        ways = {
            "onion": Way(open=lambda: proxy.open("127.0.0.1", server), size=BULK, relays=[relay.process.pid for relay in relays]),
            "socat4": Way(open=stack.enter_context(socats(4, server)), size=BULK, relays=[]),
        }
        for name, schedulers in TOR.items():
            tor = await stack.enter_async_context(tor_network(schedulers, server))
            ways[name] = Way(open=tor.open, size=TOR_BULK, relays=tor.relays)
        rows = [*await throughput(ways), *await delay(proxy, ways)]
    async with network(server, clients=CLIENTS) as (proxies, relays):
        empty = memory(relays)
        for number in range(CIRCUITS):
            await proxies[number % CLIENTS].rendezvous()
        return [*rows, Row("relay-rss-mb-1000-circuits", round(memory(relays), 1), f"MB, {empty:.0f} without circuits")]


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
