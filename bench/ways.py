"""Ways to a server on this machine: a chain of socats, our network, and what they have in common.

The server takes b"U" size and so many bytes, or b"D" size and gives so many, or b"E" size and echoes pieces of so many.
"""

import asyncio
import contextlib
import itertools
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Protocol

from tests.support.relay_processes import RelayProcess, free_ports, processes

from localcluster import toolchain
from veilpod.net.onion import OnionProxy

PIECE = 1 << 20


class Stream(Protocol):
    """What both ways to the server have in common."""

    async def write(self, data: bytes) -> None: ...
    async def readexactly(self, size: int) -> bytes: ...
    async def read(self, limit: int = ...) -> bytes: ...
    async def close(self) -> None: ...


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
async def network(server: int, clients: int = 1, *options: str) -> AsyncIterator[tuple[list[OnionProxy], list[RelayProcess]]]:
    """Three relays that exit to the server, and clients' proxies."""
    async with processes(3, *options) as relays:
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
