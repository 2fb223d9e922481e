"""A thousand relays in one process and in no time: the product's own onion network on virtual hosts (tests.support.virtual).

`python -m bench.virtual`. 200 clients send 1 MB each over three hops to one server; the whole is run twice and must come to the same
digest. Hosts have 100 Mbit/s and 5 to 50 ms between them; processors are not charged. Then the same flows go through three real relays
and three virtual ones whose bandwidth is bounded alike: the virtual network is worth what it says when both take the same time.
"""

import argparse
import asyncio
import dataclasses
import random
import statistics
import sys
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from unittest import mock

from tests.support import virtual
from tests.support.onion import entry
from tests.support.virtual import Host

from bench.report import Row, write
from bench.ways import network
from veilpod.core.onion.directory import RelayEntry
from veilpod.net.onion import OnionProxy
from veilpod.net.streams import MuxStream
from veilpod.relay.keys import RelayKeys
from veilpod.relay.limits import Limits
from veilpod.relay.router import Relay

PORT, SERVER = 9001, "198.18.0.1"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Who sends how much through what."""

    relays: int
    flows: int
    size: int  # bytes of each flow
    rate: float  # bytes a second of each host's line
    distance: Callable[[Host, Host], float]
    bandwidth: int = 0  # bytes a second that a relay carries, 0 for no bound
    spread: float = 0.0  # seconds within which flows begin


def distance(a: Host, b: Host) -> float:
    """Seconds from one host to another: 5 to 50 ms, the same for the same two."""
    pair = "-".join(sorted((a.address, b.address)))
    return 0.005 + zlib.crc32(pair.encode()) % 45_000 / 1e6


THOUSAND = Scenario(relays=1000, flows=200, size=1_000_000, rate=12.5e6, distance=distance, spread=1.0)
BOUNDED = Scenario(relays=3, flows=4, size=15_000_000, rate=1e9, distance=lambda a, b: 5e-5, bandwidth=20_000_000)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run came to: virtual seconds of each flow, the digest, seconds of ours that it took."""

    flows: list[float]
    digest: str
    wall: float


def simulate(scenario: Scenario, seed: int = 1) -> Outcome:
    """Build the network, let the flows begin, and wait for the last."""
    wall = time.perf_counter()
    noise = random.Random(seed)
    with virtual.network(scenario.distance) as net, mock.patch("veilpod.net.link._random", noise), mock.patch("time.time", net.loop.time):
        keys = [RelayKeys() for _ in range(scenario.relays)]
        entries = [entry(n, keys=key, host=a, port=PORT) for n, (key, a) in enumerate(zip(keys, _addresses(), strict=False), 1)]
        for key, listed in zip(keys, entries, strict=True):
            net.run(net.host(listed.host, rate=scenario.rate).start(_relay(scenario, key, listed, entries)))
        net.run(net.host(SERVER, rate=scenario.rate * scenario.flows).start(_serve(SERVER, 80)))
        clients = [net.host(f"200.{number}.0.1", rate=scenario.rate) for number in range(scenario.flows)]
        flows = [client.start(_client(scenario, entries, random.Random(seed + n))) for n, client in enumerate(clients)]
        took: list[float] = net.run(net.loop.create_task(_all(flows)))
        return Outcome(flows=took, digest=net.digest(), wall=time.perf_counter() - wall)


async def play(scenario: Scenario) -> list[float]:
    """The same flows through real relays, each a process; seconds of each."""
    server = await _serve("127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    async with server, network(port, scenario.flows, f"--bandwidth={scenario.bandwidth}") as (proxies, _):
        return await _all([_timed(scenario, proxy.open("127.0.0.1", port)) for proxy in proxies])


async def _relay(scenario: Scenario, keys: RelayKeys, listed: RelayEntry, entries: Sequence[RelayEntry]) -> None:
    relay = Relay(keys, Limits(bandwidth=scenario.bandwidth))
    relay.use_directory(entries)
    relay.policy.replace([f"{SERVER}:80"])
    await relay.listen(listed.host, listed.port)


async def _serve(address: str, port: int) -> asyncio.Server:
    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            pass
        writer.write(b"k")
        writer.close()

    return await asyncio.start_server(take, address, port)


async def _client(scenario: Scenario, entries: Sequence[RelayEntry], chance: random.Random) -> float:
    await asyncio.sleep(chance.random() * scenario.spread)
    proxy = OnionProxy(directory=lambda: entries, hops=3, in_cluster=False, clock=asyncio.get_running_loop().time)
    proxy._chance = chance.random
    return await _timed(scenario, proxy.open(SERVER, 80))


async def _timed(scenario: Scenario, opening: Awaitable[MuxStream]) -> float:
    loop = asyncio.get_running_loop()
    since = loop.time()
    stream = await opening
    await stream.write(bytes(scenario.size))
    await stream.write_eof()
    await stream.readexactly(1)
    took = loop.time() - since
    await stream.close()
    return took


async def _all(work: Sequence[Awaitable[float]]) -> list[float]:
    return list(await asyncio.gather(*work))


def _addresses() -> Iterator[str]:
    """Addresses of which no two share a /16."""
    return (f"{first}.{second}.0.1" for first in range(11, 100) for second in range(250))


def main() -> int:
    """Run, compare, print, write build/bench/virtual.json."""
    argparse.ArgumentParser(prog="bench.virtual", description=__doc__).parse_args()
    first, second = simulate(THOUSAND), simulate(THOUSAND)
    told, seen = max(simulate(BOUNDED).flows), max(asyncio.run(play(BOUNDED)))
    unit = f"s for {THOUSAND.relays:,} relays, {THOUSAND.flows} flows of {THOUSAND.size / 1e6:.0f} MB"
    rows = [
        Row("wall-s", round(max(first.wall, second.wall), 2), unit, 5.0),
        Row("equal-digests", float(first.digest == second.digest), "of two runs", 1.0, "higher"),
        Row("flow-p50-s", round(statistics.median(first.flows), 3), "virtual s, circuit and transfer"),
        Row("flow-worst-s", round(max(first.flows), 3), "virtual s"),
        Row("bounded-relays-virtual-s", round(told, 2), f"virtual s, {BOUNDED.flows} flows through three bounded relays"),
        Row("bounded-relays-real-s", round(seen, 2), "s, the same through real ones"),
        Row("calibration-error", round(abs(told / seen - 1), 3), "of the real time", 0.1),
    ]
    write("virtual", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
