"""One ordered byte stream of many over a circuit or session, with an end-to-end credit of its own.

Its window is returned when the application has read, so a slow reader stops its own sender and nobody else, and holds at most one window.
Nothing is dropped, nothing is buffered beyond. What all streams of a circuit share is in `mux`. Paper steps 5, 7 and 8.
"""

import asyncio
import collections
from typing import Protocol

from veilpod.core.onion.geometry import GEOMETRY, CellClass, Window
from veilpod.core.onion.messages import FIN, EndReason, Message, RelayCommand, pack_credit, parse_credit
from veilpod.errors import CircuitFailed, PeerUnavailable, ProtocolViolation, Refused, VeilpodError

_OPEN_TIMEOUT = 60.0  # longer than two ends may take to meet again
PIECE = GEOMETRY[CellClass.BULK].inner_data_max  # a write of this size, or a multiple, fills its cells in a session and at an exit


class Carrier(Protocol):
    """What messages travel over."""

    @property
    def data_max(self) -> int: ...
    def send_message(self, command: RelayCommand, data: bytes | memoryview, *, flags: int = 0, stream_id: int = 0) -> None: ...
    async def ready(self) -> None:
        """Wait while too much is queued."""


class Hold:
    """A bound on what many streams together hold for readers who do not come. Over it the next stream that gets data is ended."""

    def __init__(self, limit: int) -> None:
        self.used = 0
        self._limit = limit

    def take(self, size: int) -> bool:
        """Hold so many bytes more, if there is room."""
        if self.used + size > self._limit:
            return False
        self.used += size
        return True

    def give(self, size: int) -> None:
        """They were read, or nobody will."""
        self.used -= size


class Streams(Protocol):
    """What a stream shares with the others of its circuit."""

    carrier: Carrier
    window: Window
    hold: Hold

    async def send_data(self, stream: "MuxStream", data: bytes | memoryview, *, flags: int = 0) -> None: ...
    def say(self, command: RelayCommand, data: bytes | memoryview, *, flags: int = 0, stream_id: int = 0) -> None: ...
    def end(self, stream: "MuxStream", reason: EndReason) -> None: ...
    def forget(self, stream: "MuxStream") -> None: ...


class MuxStream:
    """One stream; implements ports.Stream."""

    def __init__(self, mux: Streams, stream_id: int, label: bytes) -> None:
        self.id, self.label = stream_id, label
        self._mux = mux
        self._credit = mux.window.stream
        self._room = mux.window.stream
        self._consumed = 0
        self._chunks: collections.deque[bytes | memoryview] = collections.deque()
        self._arrived = asyncio.Event()
        self._credited = asyncio.Event()
        self._over = asyncio.Event()
        self._turn = asyncio.Lock()
        self._connected: asyncio.Future[None] | None = None
        self._eof = self._sent_eof = self._closed = False
        self._error: VeilpodError | None = None

    # --- ports.Stream

    async def read(self, limit: int = 65536) -> bytes:
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._eof or self._closed:
                return b""
            self._arrived.clear()
            await self._arrived.wait()
        chunk = self._chunks[0]
        if len(chunk) > limit:
            view = memoryview(chunk)
            self._chunks[0] = view[limit:]
            self._mux.hold.give(limit)
            return bytes(view[:limit])
        self._chunks.popleft()
        self._mux.hold.give(len(chunk))
        self._consume()
        return bytes(chunk)  # no copy of what is whole

    async def readexactly(self, size: int) -> bytes:
        parts, missing = [], size
        while missing:
            part = await self.read(missing)
            if not part:
                raise PeerUnavailable("the stream ended before what was expected")
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    async def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        async with self._turn:
            for start in range(0, len(view), self._mux.carrier.data_max):
                await self._mux.send_data(self, view[start : start + self._mux.carrier.data_max])

    async def write_eof(self) -> None:
        async with self._turn:
            if not self._sent_eof:
                await self._mux.send_data(self, b"", flags=FIN)
                self._sent_eof = True

    async def close(self) -> None:
        self.end(EndReason.DONE)

    # --- for the mux and its user

    def end(self, reason: EndReason) -> None:
        """Close at once, with a reason."""
        if not self._closed:
            self._closed = True
            self.discard()
            self._mux.end(self, reason)
            self._wake()

    def discard(self) -> None:
        """Nobody will read what has arrived."""
        self._mux.hold.give(sum(len(chunk) for chunk in self._chunks))
        self._chunks.clear()

    def __del__(self) -> None:
        self.discard()

    @property
    def piece(self) -> int:
        """Bytes that fill one message: the best size of a write is a multiple of it."""
        return self._mux.carrier.data_max

    async def over(self) -> None:
        """Wait until the peer has closed the stream, or lost it, rather than only finished sending."""
        await self._over.wait()

    def accept(self) -> None:
        """Tell the opener that the stream is connected."""
        self._mux.say(RelayCommand.CONNECTED, b"", stream_id=self.id)

    def check_writable(self) -> None:
        """Raise unless data may be sent."""
        if self._error is not None:
            raise self._error
        if self._closed or self._sent_eof:
            raise PeerUnavailable("the stream is closed")

    @property
    def credit(self) -> int:
        """How many messages the peer would take."""
        return self._credit

    async def wait_credit(self) -> None:
        """Wait for more credit, or for the end."""
        self._credited.clear()
        await self._credited.wait()

    def take_credit(self) -> None:
        """One message was sent."""
        self._credit -= 1

    def on_message(self, message: Message) -> None:
        """The peer's message for this stream. Raises ProtocolViolation."""
        if message.command is RelayCommand.DATA:
            self._on_data(message)
        elif message.command is RelayCommand.SENDME:
            self._credit += parse_credit(message.data)
            if self._credit > self._mux.window.stream:
                raise ProtocolViolation("BadCredit", "credit that was never taken")
            self._credited.set()
        elif message.command is RelayCommand.CONNECTED:
            if self._connected is None or self._connected.done():
                raise ProtocolViolation("BadMessage", "CONNECTED that nobody asked for")
            self._connected.set_result(None)
        else:
            self._on_end(message)

    def fail(self, error: VeilpodError) -> None:
        """The circuit is gone. What arrived before can still be read."""
        if self._error is None:
            self._error = error
        self._over.set()
        self._wake()

    async def connected(self) -> None:
        """Wait for CONNECTED. Raises what END said, or CircuitFailed."""
        self._connected = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(_OPEN_TIMEOUT):
                await self._connected
        except TimeoutError as error:
            self.end(EndReason.TIMEOUT)
            raise PeerUnavailable("the stream was not answered") from error
        except asyncio.CancelledError:
            self.end(EndReason.DONE)
            raise
        if self._error is not None:
            raise self._error

    def _on_data(self, message: Message) -> None:
        self._room -= 1
        if self._room < 0 or self._eof:
            raise ProtocolViolation("WindowExceeded", "data beyond the window or behind the end")
        if len(message.data):
            if not self._mux.hold.take(len(message.data)):
                self.end(EndReason.RESOURCE)
                self.fail(PeerUnavailable("more has arrived than can be held: the stream was not read for too long"))
                return
            self._chunks.append(bytes(message.data))
        else:
            self._consume()
        if message.flags & FIN:
            self._eof = True
        self._arrived.set()

    def _on_end(self, message: Message) -> None:
        try:
            reason = EndReason(message.data[0])
        except (ValueError, IndexError):
            reason = EndReason.PROTOCOL
        self._over.set()
        self._mux.forget(self)
        if reason is not EndReason.DONE:
            self.fail(_end_error(reason))
        else:
            # Everything the peer had to say came before: the reader sees a plain end, the writer that nobody listens.
            self._eof = self._sent_eof = True
            if self._connected is not None and not self._connected.done():
                self._error = PeerUnavailable("the stream was closed before it was connected")
            self._wake()

    def _consume(self) -> None:
        self._consumed += 1
        if self._consumed >= self._mux.window.stream_step and not self._eof and self._error is None and not self._closed:
            self._room += self._consumed
            self._mux.say(RelayCommand.SENDME, pack_credit(self._consumed), stream_id=self.id)
            self._consumed = 0

    def _wake(self) -> None:
        self._arrived.set()
        self._credited.set()
        if self._connected is not None and not self._connected.done():
            self._connected.set_result(None)


def _end_error(reason: EndReason) -> VeilpodError:
    if reason is EndReason.POLICY:
        return Refused("ExitRefused", "the last relay's owner does not allow this endpoint: only registered services can be reached")
    if reason is EndReason.PROTOCOL:
        return CircuitFailed("the other end of the stream saw a violation of the protocol")
    return PeerUnavailable(f"the stream ended: {reason.name.lower()}")
