"""Hosts, their lines and processors, and what listens on them."""

import asyncio
import collections
import contextlib
import contextvars
import hashlib
import itertools
import struct
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from tests.support.virtual import sockets
from tests.support.virtual.connections import Pipe, Transport, join
from tests.support.virtual.loop import VirtualLoop

_here: contextvars.ContextVar["Host"] = contextvars.ContextVar("host")
Latency = Callable[["Host", "Host"], float]  # seconds from one to the other
Factory = Callable[[], asyncio.BaseProtocol]


class Line:
    """One direction of a host's line: connections that have something to send take turns, a piece each."""

    def __init__(self, loop: VirtualLoop, rate: float) -> None:
        self._loop, self._rate = loop, rate
        self._waiting: collections.deque[Pipe] = collections.deque()
        self._busy = False

    def offer(self, pipe: Pipe) -> None:
        """A connection has something to send."""
        self._waiting.append(pipe)
        if not self._busy:
            self._next()

    def _next(self) -> None:
        self._busy = True  # while a pipe gives its piece it may offer the next one
        while self._waiting:
            pipe = self._waiting.popleft()
            if (piece := pipe.take()) is not None:
                self._loop.call_later(len(piece) / self._rate, self._sent, pipe, piece)
                return
        self._busy = False

    def _sent(self, pipe: Pipe, piece: bytes) -> None:
        pipe.left(piece)
        self._next()


class Host:
    """A machine with one address. Tasks started on it, and all that they start, are its own."""

    def __init__(self, network: "Network", address: str, *, rate: float, cpu: float) -> None:
        self.network, self.address = network, address
        self.line = Line(network.loop, rate)
        self.context = contextvars.copy_context()
        self.context.run(_here.set, self)
        self.up = True
        self._rate, self._cpu = rate, cpu
        self._free = self._idle = 0.0  # when the line into the host, and its processor, are free again
        self._ports = iter(range(49152, 65536))
        self.transports: dict[Transport, None] = {}

    def start(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Run something here."""
        return self.network.loop.create_task(work, context=self.context)

    def port(self) -> int:
        """A port that nobody has."""
        return next(self._ports)

    def arrive(self, pipe: Pipe, piece: bytes) -> None:
        """A piece has come to the host's line: it goes in behind those before it, and waits for the processor."""
        loop = self.network.loop
        self._free = max(loop.time(), self._free) + len(piece) / self._rate
        self._idle = max(self._free, self._idle) + len(piece) * self._cpu
        loop.call_at(self._idle, self._hand_over, pipe, piece)

    def _hand_over(self, pipe: Pipe, piece: bytes) -> None:
        if self.up:
            self.network.record(pipe, piece)
            pipe.deliver(piece)

    def crash(self) -> None:
        """The machine is gone, without a word to anybody: what comes for it is lost, and nobody answers."""
        self.up = False
        for transport in list(self.transports):
            transport.vanish()


class Network:
    """All hosts, and the loop on which they run."""

    def __init__(self, loop: VirtualLoop, latency: Latency) -> None:
        self.loop, self.latency = loop, latency
        self.hosts: dict[str, Host] = {}
        self.listening: dict[tuple[str, int], tuple[Host, Factory]] = {}
        self.numbers = itertools.count()  # of connections' directions
        self.bytes_delivered = 0
        self.captured: dict[int, bytearray] | None = None  # set to {}: the bytes of each direction of each connection, by its number
        self._digest = hashlib.sha256()

    def host(self, address: str, *, rate: float = 125e6, cpu: float = 0.0) -> Host:
        """Add a host: bytes a second each way, CPU seconds per byte that it receives."""
        self.hosts[address] = Host(self, address, rate=rate, cpu=cpu)
        return self.hosts[address]

    def run(self, task: "asyncio.Task[Any]") -> Any:
        """Let time pass until a task is done. Raises NothingLeft when it never will be."""
        return self.loop.run_until_complete(task)

    def record(self, pipe: Pipe, piece: bytes) -> None:
        """A piece was delivered."""
        self.bytes_delivered += len(piece)
        if self.captured is not None:
            self.captured.setdefault(pipe.number, bytearray()).extend(piece)
        self._digest.update(struct.pack(">dII", self.loop.time(), pipe.number, len(piece)))

    def digest(self) -> str:
        """What happened so far: when, on which connection, how many bytes."""
        return self._digest.hexdigest()

    async def connect(self, factory: Factory, address: str, port: int) -> tuple[Transport, asyncio.BaseProtocol]:
        """Connect from the host on which this runs. Raises ConnectionRefusedError; waits for ever for a host that is not up."""
        here = _here.get()
        there = self.hosts.get(address)
        if there is None or not there.up:
            await self.loop.create_future()  # nobody answers
        assert there is not None
        await asyncio.sleep(2 * self.latency(here, there))
        if (address, port) not in self.listening:
            raise ConnectionRefusedError(f"nobody listens on {address}:{port}")
        _, accept = self.listening[address, port]
        return join(here, there, port, factory, accept)

    def listen(self, factory: Factory, address: str, port: int) -> "Server":
        """Listen on the host on which this runs."""
        here = _here.get()
        key = (here.address, port or here.port())
        self.listening[key] = (here, factory)
        return Server(self, key)


class Server:
    """What `create_server` returns, as far as anybody asks."""

    def __init__(self, network: Network, key: tuple[str, int]) -> None:
        self._network, self._key = network, key

    @property
    def sockets(self) -> "list[Server]":
        return [self]

    def getsockname(self) -> tuple[str, int]:
        return self._key

    def close(self) -> None:
        self._network.listening.pop(self._key, None)

    async def wait_closed(self) -> None: ...


@contextlib.contextmanager
def network(latency: Latency = lambda a, b: 0.0) -> Iterator[Network]:
    """Make a loop and a network on it. Sockets that the product opens by itself are the network's while it lasts."""
    loop = VirtualLoop()
    net = Network(loop, latency)

    async def create_connection(factory: Factory, host: str, port: int, **_: Any) -> Any:
        return await net.connect(factory, host, port)

    async def create_server(factory: Factory, host: str, port: int, **_: Any) -> Any:
        return net.listen(factory, host, port)

    calls = {"create_connection": create_connection, "create_server": create_server} | sockets.calls(net)
    for name, call in calls.items():
        setattr(loop, name, call)
    asyncio.set_event_loop(loop)
    try:
        with sockets.virtual():
            yield net
    finally:
        loop.end_tasks()
        for host in net.hosts.values():
            host.crash()
        asyncio.set_event_loop(None)
        loop.close()
