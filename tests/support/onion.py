"""A little onion network on loopback: real relays in this process, real sockets, one owner each."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from veilpod.core.ids import NodeId
from veilpod.core.keys import checksum_address
from veilpod.core.onion.directory import RelayEntry
from veilpod.net.onion import OnionProxy
from veilpod.net.session import OnionSession
from veilpod.relay.keys import RelayKeys
from veilpod.relay.limits import Limits
from veilpod.relay.router import Relay

REGISTRY = checksum_address(b"\x11" * 20)
CHAIN_ID = 31337


def owner(number: int) -> Any:
    return checksum_address(number.to_bytes(20, "big"))


def entry(number: int, *, keys: RelayKeys | None = None, host: str | None = None, port: int = 9001, **changes: Any) -> RelayEntry:
    """A relay's entry with a valid proof. By default every number is another owner in another /16."""
    keys = keys or RelayKeys()
    of = changes.pop("owner", owner(number))
    fields: dict[str, Any] = {
        "node_id": NodeId(number),
        "owner": of,
        "identity_key": keys.identity_public,
        "onion_key": keys.newest.public,
        "key_epoch": 1,
        "host": host or f"10.{number % 250}.0.1",
        "port": port,
        "proof": keys.prove(owner=of, key_epoch=1, registry=REGISTRY, chain_id=CHAIN_ID),
        "updated_at": int(time.time()),
        "registry": REGISTRY,
        "chain_id": CHAIN_ID,
    }
    return RelayEntry(**fields | changes)


@dataclasses.dataclass
class Network:
    """Relays by node id, with the directory that lists them."""

    relays: dict[int, Relay]
    entries: dict[int, RelayEntry]
    proxies: list[OnionProxy] = dataclasses.field(default_factory=list)

    def proxy(self, **options: Any) -> OnionProxy:
        """A client of this network; closed with it."""
        defaults: dict[str, Any] = {"directory": lambda: list(self.entries.values()), "hops": 3, "in_cluster": False, "trace": None}
        proxy = OnionProxy(**defaults | options)
        self.proxies.append(proxy)
        return proxy

    def allow(self, *ports: int) -> None:
        """Let every relay exit to these ports of loopback."""
        for relay in self.relays.values():
            relay.policy.replace([f"127.0.0.1:{port}" for port in ports])

    async def add(self, number: int, *, limits: Limits | None = None, listed: bool = True) -> Relay:
        relay = Relay(limits=limits)
        port = await relay.listen("127.0.0.1", 0)
        self.relays[number] = relay
        if listed:
            self.entries[number] = entry(number, keys=relay.keys, host="127.0.0.1", port=port)
        for each in self.relays.values():
            each.use_directory(list(self.entries.values()))
        return relay


@contextlib.asynccontextmanager
async def network(count: int = 4, *, limits: Limits | None = None) -> AsyncIterator[Network]:
    """Run relays 1 to `count`."""
    net = Network(relays={}, entries={})
    try:
        for number in range(1, count + 1):
            await net.add(number, limits=limits)
        yield net
    finally:
        for proxy in net.proxies:
            await proxy.close()
        for relay in net.relays.values():
            await relay.close()


async def meet(net: Network, host: OnionProxy | None = None, guest: OnionProxy | None = None) -> tuple[OnionSession, OnionSession]:
    """Two clients meet. Returns the guest's end and the host's."""
    point = await (host or net.proxy()).rendezvous()
    accepting = asyncio.create_task(point.accept())
    session = await (guest or net.proxy()).connect(relay=point.relay, cookie=point.cookie, service_key=point.service_key)
    return session, await accepting


@contextlib.asynccontextmanager
async def service(handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any] | None = None) -> AsyncIterator[int]:
    """A TCP service on loopback, by default an echo. Gives its port."""
    tasks: set[asyncio.Task[Any]] = set()

    def begun(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(run(reader, writer))
        tasks.add(task)

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await (handle or echo)(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(begun, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()  # when everything has gone: draining waits for less
    await writer.wait_closed()


async def until(condition: Callable[[], Any], *, seconds: float = 30.0) -> None:
    """Wait for a condition to hold."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event, and needs none outside tests
            await asyncio.sleep(0.005)
