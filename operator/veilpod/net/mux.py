"""The streams of one circuit or session, and the credit that they share.

The circuit's window is counted in DATA messages and returned when a message arrives, so it bounds what is under way in the network; how
much of it is used follows from how long that takes (core.onion.congestion).
Streams that have something to say take turns. When the last word is said each side pads what it has sent (core.onion.padding) and ends
with a DROP that says so; then the carrier may go. What carries the messages (a circuit's last hop, a session's other end, a relay's exit)
is behind `Carrier`. Paper steps 5, 7 and 8.
"""

import asyncio
import contextlib
from collections.abc import Callable

from veilpod.core.onion import congestion
from veilpod.core.onion.geometry import WINDOW, CellClass
from veilpod.core.onion.messages import FIN, EndReason, Message, RelayCommand, pack_credit, parse_credit
from veilpod.core.onion.padding import padded
from veilpod.errors import CircuitFailed, PeerUnavailable, ProtocolViolation, VeilpodError
from veilpod.net.streams import Carrier, Hold, MuxStream

MAX_STREAMS = 256
_CLOSE_SECONDS = 60.0  # for the padding of both sides
_LAST_ID = 65535


class Mux:
    """The streams of one carrier. `on_begin` is called for each stream that the peer opens; it accepts or ends it."""

    def __init__(
        self,
        carrier: Carrier,
        cell_class: CellClass,
        *,
        first_id: int,
        on_begin: Callable[[MuxStream], None] | None,
        hold: Hold,
        tuning: congestion.Tuning | None = None,
        pads: bool = True,
    ) -> None:
        self.carrier, self.hold, self._pads = carrier, hold, pads
        self.window = WINDOW[cell_class]
        self._clock = asyncio.get_running_loop().time
        self._congestion = congestion.CongestionWindow(tuning or congestion.tuning(cell_class))
        self._on_begin = on_begin
        self._streams: dict[int, MuxStream] = {}
        self._next_id, self._parity = first_id, first_id & 1
        self._last_begun = 0
        self._arrived = 0
        self._waiters: list[asyncio.Future[None]] = []
        self._writers = 0
        self._error: VeilpodError | None = None
        self.on_empty: Callable[[], None] | None = None  # the last stream has ended
        self._said = 0  # messages but SENDMEs, which are cells of another size
        self._ended = False  # our last word is said
        self._padding: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._peer_ended = asyncio.Event()

    async def open(self, label: bytes) -> MuxStream:
        """Open a stream and wait until the peer accepted it. Raises Refused, PeerUnavailable, CircuitFailed."""
        if self._error is not None:
            raise self._error
        if self._padding is not None:
            raise CircuitFailed("the other side has ended this session")
        if self._next_id > _LAST_ID or len(self._streams) >= MAX_STREAMS:
            raise PeerUnavailable("this circuit has no room for another stream")
        stream = MuxStream(self, self._next_id, label)
        self._next_id += 2
        self._streams[stream.id] = stream
        self.say(RelayCommand.BEGIN, label, stream_id=stream.id)
        await stream.connected()
        return stream

    def handle(self, message: Message) -> None:
        """Take a message from the peer. Raises ProtocolViolation: the circuit is to be destroyed."""
        if message.command is RelayCommand.BEGIN:
            self._begin(message)
            return
        if message.command is RelayCommand.DATA:
            self._count_arrival()
        elif message.command is RelayCommand.DROP:
            self._count_arrival()
            self._on_padding(message)
            return
        elif message.command is RelayCommand.SENDME and message.stream_id == 0:
            self._on_credit(parse_credit(message.data))
            return
        elif message.command not in (RelayCommand.SENDME, RelayCommand.CONNECTED, RelayCommand.END):
            raise ProtocolViolation("BadMessage", f"{message.command.name} where streams are")
        stream = self._streams.get(message.stream_id)
        if stream is not None:  # else: closed here while it was under way
            stream.on_message(message)

    async def send_data(self, stream: MuxStream, data: bytes | memoryview, *, flags: int = 0) -> None:
        """Send one DATA message when both windows and the link have room."""
        self._writers += 1
        try:
            while True:
                stream.check_writable()
                if stream.credit <= 0:
                    await stream.wait_credit()
                elif self._congestion.room <= 0:
                    await self._wait_credit()
                else:
                    await self.carrier.ready()
                    stream.check_writable()
                    if stream.credit > 0 and self._congestion.room > 0:
                        break
            stream.take_credit()
            self._congestion.sent(self._clock())
            self.say(RelayCommand.DATA, data, flags=flags, stream_id=stream.id)
            if self._writers > 1:
                await asyncio.sleep(0)  # round robin among the streams that have something to say
        finally:
            self._writers -= 1

    def end(self, stream: MuxStream, reason: EndReason) -> None:
        """Say END and forget the stream."""
        if self._streams.pop(stream.id, None) is not None and self._error is None:
            self.say(RelayCommand.END, bytes((reason,)), stream_id=stream.id)
            self._check_empty()

    def forget(self, stream: MuxStream) -> None:
        """The peer said END."""
        self._streams.pop(stream.id, None)
        self._check_empty()

    def fail(self, error: VeilpodError) -> None:
        """The carrier is gone: every stream and writer learns it."""
        if self._error is None:
            self._error = error
        for stream in list(self._streams.values()):
            stream.fail(self._error)
        self._streams.clear()
        self._peer_ended.set()
        self._wake()

    def say(self, command: RelayCommand, data: bytes | memoryview, *, flags: int = 0, stream_id: int = 0) -> None:
        """Send a message, and count it for the padding. Behind the end only credit is given."""
        if command is not RelayCommand.SENDME:
            if self._ended:
                return
            self._said += 1
        self.carrier.send_message(command, data, flags=flags, stream_id=stream_id)

    def close(self, then: Callable[[], None]) -> None:
        """End what is open, pad, wait a while for the peer to do so too; then call `then`."""
        for stream in list(self._streams.values()):
            stream.end(EndReason.RESET)
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close(then))

    async def _close(self, then: Callable[[], None]) -> None:
        self._pad()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._peer_ended.wait()
        then()

    def _on_padding(self, message: Message) -> None:
        if message.flags & FIN:
            if self._peer_ended.is_set():
                raise ProtocolViolation("BadMessage", "a second end")
            self._peer_ended.set()
            self._pad()

    def _pad(self) -> None:
        if self._padding is None:
            self._padding = asyncio.get_running_loop().create_task(self._pad_out())

    async def _pad_out(self) -> None:
        """Say DROP until the number of what was said is one that many others have, too."""
        while self._error is None:
            if self._congestion.room <= 0:
                await self._wait_credit()
                continue
            await self.carrier.ready()
            if self._error is not None or self._congestion.room <= 0:
                continue
            last = not self._pads or padded(self._said + 1) == self._said + 1
            self._congestion.sent(self._clock())
            self.say(RelayCommand.DROP, b"", flags=FIN if last else 0)
            self._ended = last
            if last:
                return
            await asyncio.sleep(0)  # others have something to say

    def _check_empty(self) -> None:
        if self.on_empty is not None and not self._streams:
            # Not from inside the message that emptied it: the stream has yet to take note.
            asyncio.get_running_loop().call_soon(self.on_empty)

    def _begin(self, message: Message) -> None:
        wrong = message.stream_id & 1 == self._parity or message.stream_id <= self._last_begun
        if self._on_begin is None or wrong or not message.stream_id:
            raise ProtocolViolation("BadMessage", "a stream that the peer may not open")
        self._last_begun = message.stream_id
        stream = MuxStream(self, message.stream_id, bytes(message.data))
        self._streams[stream.id] = stream
        if len(self._streams) > MAX_STREAMS:
            stream.end(EndReason.RESOURCE)
            return
        self._on_begin(stream)

    def _count_arrival(self) -> None:
        # Nothing to refuse here: what has arrived is under way no more. Who sends beyond this window fills a relay's queue, which ends it.
        self._arrived += 1
        if self._arrived >= self.window.circuit_step:
            self.say(RelayCommand.SENDME, pack_credit(self._arrived))
            self._arrived = 0

    def _on_credit(self, cells: int) -> None:
        self._congestion.acknowledged(cells, self._clock())
        self._wake()

    async def _wait_credit(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def _wake(self) -> None:
        waiting, self._waiters = self._waiters, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)
