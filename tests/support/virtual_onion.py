"""A little onion network on virtual hosts that are 10 ms apart, with a service that echoes."""

import asyncio
import contextlib
import random
from collections.abc import Coroutine, Iterator
from typing import Any
from unittest import mock

from tests.support import virtual
from tests.support.onion import entry

from veilpod.core.onion.directory import RelayEntry
from veilpod.net.onion import OnionProxy
from veilpod.relay.keys import RelayKeys
from veilpod.relay.router import Relay

SERVICE = "198.18.0.1"


class World:
    """Relays and a service that echoes, on hosts that are 10 ms apart."""

    def __init__(self, net: virtual.Network, relays: int, *, rate: float) -> None:
        self.net = net
        self.relays: dict[int, Relay] = {}
        self.entries: list[RelayEntry] = []
        for number in range(1, relays + 1):
            keys = RelayKeys()
            self.entries.append(entry(number, keys=keys, host=f"10.{number}.0.1"))
            net.run(net.host(f"10.{number}.0.1", rate=rate).start(self._relay(number, keys)))
        for relay in self.relays.values():
            relay.use_directory(self.entries)
        net.run(net.host(SERVICE).start(asyncio.start_server(self._echo, SERVICE, 80)))

    async def _relay(self, number: int, keys: RelayKeys) -> None:
        self.relays[number] = relay = Relay(keys)
        relay.policy.replace([f"{SERVICE}:80"])
        await relay.listen(f"10.{number}.0.1", 9001)

    async def _echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    def proxy(self, **options: Any) -> OnionProxy:
        """A client; it chooses paths by the same chance in every run."""
        proxy = OnionProxy(directory=lambda: self.entries, hops=3, in_cluster=False, clock=self.net.loop.time, **options)
        proxy._chance = random.Random(1).random
        return proxy

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run something on a client's host."""
        address = f"172.16.{len(self.net.hosts)}.1"
        return self.net.run(self.net.host(address).start(work))


@contextlib.contextmanager
def world(relays: int = 3, *, rate: float = 125e6, distance: float = 0.01) -> Iterator[World]:
    """Run relays 1 to `relays`, so many seconds apart; links pad by the same chance in every run."""
    chance = mock.patch("veilpod.net.link._random", random.Random(1))
    with chance, virtual.network(lambda a, b: distance) as net, mock.patch("time.time", net.loop.time):
        yield World(net, relays, rate=rate)
