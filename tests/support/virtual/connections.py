"""A connection between two hosts: two pipes with windows, and the transports at their ends."""

import asyncio
import collections
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.virtual.hosts import Host

PIECE = 65536
WINDOW = 4 << 20  # bytes that may be under way and unread: what TCP's buffers come to


class Pipe:
    """One direction of a connection."""

    def __init__(self, number: int, near: "Transport", far: "Transport") -> None:
        self.number, self.near, self.far = number, near, far
        self.waiting = 0  # bytes that the sender's line has not taken
        self._pieces: collections.deque[bytes] = collections.deque()
        self._under_way = 0
        self._offered = self._eof = False

    def put(self, data: bytes) -> None:
        """The sender wrote."""
        for start in range(0, len(data), PIECE):
            self._pieces.append(data[start : start + PIECE])
        self.waiting += len(data)
        self._offer()

    def end(self) -> None:
        """The sender will write no more."""
        self._eof = True
        if not self._pieces and not self._under_way:
            self._say_eof()

    def take(self) -> bytes | None:
        """The line takes a piece, if there still is one: who aborts forgets what it has written."""
        self._offered = False
        if not self._pieces:
            return None
        piece = self._pieces.popleft()
        self.waiting -= len(piece)
        self._under_way += len(piece)
        self._offer()
        return piece

    def left(self, piece: bytes) -> None:
        """A piece is on its way."""
        self.near.sent()
        there, here = self.far.host, self.near.host
        here.network.loop.call_later(here.network.latency(here, there), there.arrive, self, piece)

    def deliver(self, piece: bytes) -> None:
        """A piece has come to the far transport."""
        self.far.receive(piece)

    def read(self, size: int) -> None:
        """The far side has taken so much: there is room for more."""
        self._under_way -= size
        self._offer()
        if self._eof and not self._pieces and not self._under_way:
            self._say_eof()

    def forget(self) -> None:
        """Nobody is left to send to."""
        self._pieces.clear()
        self.waiting = 0

    def _offer(self) -> None:
        if self._pieces and not self._offered and self._under_way < WINDOW:
            self._offered = True
            self.near.host.line.offer(self)

    def _say_eof(self) -> None:
        here, there = self.near.host, self.far.host
        here.network.loop.call_later(here.network.latency(here, there), self.far.receive_eof, context=there.context)


class Transport(asyncio.Transport):
    """One end of a connection."""

    out: Pipe
    into: Pipe

    def __init__(self, host: "Host", peer: tuple[str, int]) -> None:
        super().__init__({"peername": peer, "sockname": (host.address, 0), "socket": _Options()})
        self.host = host
        self.protocol: asyncio.Protocol | asyncio.BufferedProtocol
        self._inbox: collections.deque[bytes] = collections.deque()
        self._high, self._low = 65536, 16384
        self._paused = self._stopped = self._closing = self._gone = self._ended = self._heard_end = False
        host.transports[self] = None

    # --- what protocols call

    def write(self, data: Any) -> None:
        if self._gone or self._ended or not data:
            return
        self.out.put(bytes(data))
        if not self._paused and self.out.waiting > self._high:
            self._paused = True
            self.protocol.pause_writing()

    def write_eof(self) -> None:
        if not self._ended:
            self._ended = True
            self.out.end()

    def can_write_eof(self) -> bool:
        return True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 65536 if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        return self.out.waiting

    def pause_reading(self) -> None:
        self._stopped = True

    def resume_reading(self) -> None:
        if self._stopped:
            self._stopped = False
            self._soon(self._feed)

    def is_reading(self) -> bool:
        return not self._stopped and not self._closing

    def is_closing(self) -> bool:
        return self._closing

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol | asyncio.BufferedProtocol)
        self.protocol = protocol

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self.write_eof()
            if not self.out.waiting:
                self._soon(self._lost, None)

    def abort(self) -> None:
        if self._gone:
            return
        self._closing = True
        self.out.forget()
        self._soon(self._lost, None)
        far, loop = self.out.far, self.host.network.loop
        delay = self.host.network.latency(self.host, far.host)
        loop.call_later(delay, far._lost, ConnectionResetError("the peer has reset the connection"), context=far.host.context)

    def vanish(self) -> None:
        """The host is gone: nothing is called any more, and nobody is told."""
        self._gone = self._closing = True
        self.out.forget()

    # --- what pipes call

    def sent(self) -> None:
        """The line has taken a piece."""
        if self._paused and self.out.waiting <= self._low and not self._gone:
            self._paused = False
            self._soon(self.protocol.resume_writing)
        if self._closing and not self.out.waiting:
            self._soon(self._lost, None)

    def receive(self, piece: bytes) -> None:
        """A piece arrived."""
        if not self._gone:
            self._inbox.append(piece)
            self.host.context.run(self._feed)

    def receive_eof(self) -> None:
        """The peer will say no more."""
        self._heard_end = True
        self._feed()

    # --- inside

    def _soon(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.host.network.loop.call_soon(call, *arguments, context=self.host.context)

    def _feed(self) -> None:
        while self._inbox and not self._stopped and not self._gone:
            piece = self._inbox.popleft()
            if isinstance(self.protocol, asyncio.BufferedProtocol):
                room = memoryview(self.protocol.get_buffer(-1))
                size = min(len(room), len(piece))
                room[:size] = piece[:size]
                if size < len(piece):
                    self._inbox.appendleft(piece[size:])
                self.protocol.buffer_updated(size)
            else:
                size = len(piece)
                self.protocol.data_received(piece)
            self.into.read(size)
        if self._heard_end and not self._inbox and not self._stopped and not self._gone:
            self._heard_end = False
            if not self.protocol.eof_received():
                self.close()

    def _lost(self, error: Exception | None) -> None:
        if not self._gone:
            self._gone = self._closing = True
            self.host.transports.pop(self, None)
            self.out.forget()
            self.protocol.connection_lost(error)


class _Options:
    """The socket of a transport: takes every option."""

    def setsockopt(self, *_: Any) -> None: ...


def join(
    here: "Host", there: "Host", port: int, factory: Callable[[], asyncio.BaseProtocol], accept: Callable[[], asyncio.BaseProtocol]
) -> tuple[Transport, asyncio.BaseProtocol]:
    """Connect two protocols."""
    numbers = here.network.numbers
    near, far = Transport(here, (there.address, port)), Transport(there, (here.address, here.port()))
    forth, back = Pipe(next(numbers), near, far), Pipe(next(numbers), far, near)
    near.out, near.into, far.out, far.into = forth, back, back, forth
    near.set_protocol(factory())
    far.set_protocol(there.context.run(accept))
    near.protocol.connection_made(near)
    there.context.run(far.protocol.connection_made, far)
    return near, near.protocol
