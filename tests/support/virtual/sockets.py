"""Sockets for who reads and writes them by the loop's `sock_…` calls: a relay's exits. Each is the front of a transport."""

import asyncio
import contextlib
import socket
import types
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    from tests.support.virtual.hosts import Network


class VirtualSocket(asyncio.Protocol):
    """A socket that is connected by `loop.sock_connect`."""

    transport: asyncio.Transport

    def __init__(self, *_: Any) -> None:
        self._received = bytearray()
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._ended = False
        self._error: Exception | None = None

    # --- what the product calls

    def setblocking(self, flag: bool) -> None: ...
    def setsockopt(self, *_: Any) -> None: ...

    def shutdown(self, _: int) -> None:
        self.transport.write_eof()

    def close(self) -> None:
        if hasattr(self, "transport"):
            self.transport.close()

    async def receive_into(self, into: memoryview) -> int:
        while not self._received:
            if self._error is not None:
                raise self._error
            if self._ended:
                return 0
            self._changed.clear()
            await self._changed.wait()
        size = min(len(into), len(self._received))
        into[:size] = self._received[:size]
        del self._received[:size]
        if len(self._received) <= 65536:
            self.transport.resume_reading()
        return size

    async def send(self, data: bytes) -> None:
        await self._room.wait()
        if self._error is not None:
            raise self._error
        self.transport.write(data)

    # --- the transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        if len(self._received) > 4 * 65536:
            self.transport.pause_reading()
        self._changed.set()

    def eof_received(self) -> bool:
        self._ended = True
        self._changed.set()
        return True

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._error, self._ended = exc, True
        self._changed.set()
        self._room.set()


def calls(network: "Network") -> dict[str, Callable[..., Any]]:
    """Return the loop's calls on sockets."""

    async def sock_connect(connection: VirtualSocket, address: tuple[str, int]) -> None:
        await network.connect(lambda: connection, *address)

    async def sock_recv_into(connection: VirtualSocket, into: memoryview) -> int:
        return await connection.receive_into(into)

    async def sock_sendall(connection: VirtualSocket, data: bytes) -> None:
        await connection.send(data)

    return {"sock_connect": sock_connect, "sock_recv_into": sock_recv_into, "sock_sendall": sock_sendall}


@contextlib.contextmanager
def virtual() -> Iterator[None]:
    """Let the exits open such sockets."""
    stand_in = types.SimpleNamespace(**{name: value for name, value in vars(socket).items() if name.isupper()}, socket=VirtualSocket)
    with mock.patch("veilpod.relay.exits.socket", stand_in):
        yield
