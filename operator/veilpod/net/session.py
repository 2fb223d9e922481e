"""A session: end-to-end encrypted streams between two ends that met at a rendezvous, over one leg or several (paper steps 5 and 7).

Every message that streams send has a number and is kept until the other end has it. It goes over the leg that is least behind. A leg that
breaks or stalls gives its messages to another one; where there is none, both ends meet again (`meeting`) and the session goes on as if
nothing had happened, if that succeeds within `MEND_SECONDS`. A session that carries much gets a second leg over other relays.
"""

import asyncio
import collections
import logging
from collections.abc import Awaitable, Callable, Collection

from veilpod.core.ids import NodeId
from veilpod.core.onion.congestion import fixed
from veilpod.core.onion.geometry import GEOMETRY, LABEL_MAX, WINDOW, CellClass
from veilpod.core.onion.legs import Numbers
from veilpod.core.onion.messages import EndReason, Message, RelayCommand
from veilpod.core.onion.ordering import Inbox, Outbox, Sent
from veilpod.errors import CircuitFailed, InvalidInput, ProtocolViolation, VeilpodError
from veilpod.net.leg import Leg
from veilpod.net.mux import Mux
from veilpod.net.streams import Hold, MuxStream

log = logging.getLogger(__name__)
MEND_SECONDS = 45.0  # to find a leg when there is none
_WIDEN_SECONDS = 10.0  # to find one more
_STALL_SECONDS = 5.0  # under way so long without a word: its messages go elsewhere
_ABANDON_SECONDS = 20.0  # and so long: it is given up
_LOOK_SECONDS = 1.0
_MOST_LEGS = 3
_UNREAD = 64 << 20  # bytes of all its streams together that a session holds for its user
_UNACCEPTED = 64  # streams that the peer opened and nobody has taken yet
_AHEAD = 4  # circuit windows of messages that may come before a missing one

MeetAgain = Callable[[Collection[NodeId]], Awaitable[Leg]]


class OnionSession:
    """One end of a session; implements ports.Session, carries its own streams and owns its legs."""

    def __init__(self, leg: Leg, *, session_id: bytes, guest: bool, meet_again: MeetAgain) -> None:
        self.id = session_id
        self.cell_class: CellClass = leg.circuit.cell_class
        self._meet_again = meet_again
        self._paced = leg.paced  # then neither padding nor a second leg tells how much is said
        first = 1 if guest else 2
        self._mux = Mux(
            self,
            self.cell_class,
            first_id=first,
            on_begin=self._begun,
            hold=Hold(_UNREAD),
            tuning=fixed(self.cell_class),
            pads=not self._paced,
        )
        self._accepted: asyncio.Queue[MuxStream | None] = asyncio.Queue()
        self._error: VeilpodError | None = None
        self._legs: list[Leg] = []
        self._outbox, self._inbox = Outbox(), Inbox(_AHEAD * WINDOW[self.cell_class].circuit)
        self._carried = collections.Counter[bool]()  # messages of data, received and sent
        self._closing = False
        self._changed = asyncio.Event()  # a leg came, or the end
        self._mending: asyncio.Task[None] | None = None
        self._pumping: asyncio.Task[None] | None = None
        self._looking = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)
        self.attach(leg)

    # --- ports.Session

    async def open_stream(self, label: str) -> MuxStream:
        name = label.encode()
        if not 0 < len(name) <= LABEL_MAX:
            raise InvalidInput("BadLabel", f"a stream's label has 1 to {LABEL_MAX} bytes")
        return await self._mux.open(name)

    async def accept_stream(self) -> tuple[str, MuxStream]:
        if self._error is not None and self._accepted.empty():
            raise self._error
        stream = await self._accepted.get()
        if stream is None:
            self._accepted.put_nowait(None)  # whoever else waits learns it, too
            assert self._error is not None
            raise self._error
        return stream.label.decode(), stream

    async def close(self) -> None:
        self._closing = True
        if not self._legs:
            self.abort()
        self._mux.close(self.abort)

    def abort(self) -> None:
        """End it at once, and say so."""
        self._end(CircuitFailed("the session was closed"), EndReason.DONE)

    # --- the carrier of the streams

    @property
    def data_max(self) -> int:
        """Bytes of data in one end-to-end message."""
        return GEOMETRY[self.cell_class].inner_data_max

    def send_message(self, command: RelayCommand, data: bytes | memoryview, *, flags: int = 0, stream_id: int = 0) -> None:
        """Send a message to the other end, over whatever leg there is or will be."""
        if self._error is not None:
            return
        try:
            sent = self._outbox.put(command, data, flags=flags, stream_id=stream_id)
        except CircuitFailed as error:
            self._end(error, EndReason.PROTOCOL)
            return
        leg = self._best()
        if leg is None:
            self._outbox.wait(sent)
        else:
            _carry(sent, leg)
        if command is RelayCommand.DATA:
            self._count(sent=True)

    async def ready(self) -> None:
        """Wait while there is no leg, or it has too much under way, or queued."""
        while self._error is None:
            leg = self._best()
            if leg is None or self._outbox.waits or not leg.has_room:
                self._changed.clear()
                await self._changed.wait()
            elif leg.circuit.has_room:
                return
            else:
                await leg.circuit.ready()

    # --- the legs' calls

    def on_inner(self, leg: Leg, numbers: Numbers, message: Message) -> None:
        """A message of the other end. What is wrong with it ends the session: the other end itself wrote it."""
        if self._error is not None:
            return
        try:
            self._outbox.confirm(numbers.newest)
            if numbers.number:
                for each in self._inbox.take(numbers.number, message):
                    self._handle(each)
            elif message.command is RelayCommand.END:
                self._end(CircuitFailed("the other end has left the session"))
            elif message.command is not RelayCommand.ACK:
                raise ProtocolViolation("BadMessage", f"{message.command.name} in a session", party="peer")
        except ProtocolViolation as error:
            log.warning("session.violation", extra={"reason": error.reason})
            self._end(CircuitFailed(f"the session is over: {error}"), EndReason.PROTOCOL)
        self._pump()

    def on_leg_failed(self, leg: Leg, error: VeilpodError) -> None:
        """A leg is gone: the others, or another, take what it had under way."""
        if leg not in self._legs:
            return
        self._legs.remove(leg)
        self._take_back(leg)
        if self._error is None and self._closing and not self._legs:
            self._end(error if isinstance(error, CircuitFailed) else CircuitFailed(f"the session is over: {error}"))
        self._mend()

    def attach(self, leg: Leg) -> None:
        """Use a leg whose other end has shown that it is the same as ever, if it is not in use already."""
        if leg in self._legs:
            return
        if self._error is not None or len(self._legs) >= _MOST_LEGS:
            leg.close()
            return
        leg.owner, leg.newest, leg.changed = self, lambda: self._inbox.newest, self._changed
        self._legs.append(leg)
        leg.begin()
        if leg.circuit.error is not None:
            self.on_leg_failed(leg, leg.circuit.error)
        self._changed.set()
        self._pump()

    # --- sending

    def _best(self) -> Leg | None:
        return min((leg for leg in self._legs if not leg.stalled), key=lambda leg: leg.load, default=None)

    def _take_back(self, leg: Leg) -> None:
        if lost := self._outbox.take_back(leg):
            log.info("session.again", extra={"messages": lost})
        self._pump()

    def _pump(self) -> None:
        if self._pumping is None and self._error is None and self._outbox.waits and self._best() is not None:
            self._pumping = asyncio.get_running_loop().create_task(self._send_again())

    async def _send_again(self) -> None:
        try:
            while self._outbox.waits and (leg := self._best()) is not None:
                if not leg.has_room:
                    self._changed.clear()
                    await self._changed.wait()
                    continue
                await leg.circuit.ready()
                if self._outbox.waits and not leg.stalled and leg.circuit.error is None:
                    _carry(self._outbox.next(), leg)
        finally:
            self._pumping = None
            self._changed.set()

    # --- receiving

    def _handle(self, message: Message) -> None:
        if self._error is not None:
            return  # a message before this one has ended the session
        if message.command is RelayCommand.DATA:
            self._count(sent=False)
        self._mux.handle(message)

    def _begun(self, stream: MuxStream) -> None:
        try:
            fits = len(stream.label.decode()) > 0 and len(stream.label) <= LABEL_MAX
        except UnicodeDecodeError as error:
            raise ProtocolViolation("BadLabel", "a stream whose label is not UTF-8") from error
        if not fits:
            raise ProtocolViolation("BadLabel", "a stream with a label that is too short or too long")
        if self._accepted.qsize() >= _UNACCEPTED:
            stream.end(EndReason.RESOURCE)
            return
        stream.accept()
        self._accepted.put_nowait(stream)

    # --- the legs' health

    def _look(self) -> None:
        self._looking = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)
        for leg in list(self._legs):
            if leg.idle >= _ABANDON_SECONDS:
                leg.circuit.fail(CircuitFailed("a leg of the session has stalled"))
            elif leg.idle >= _STALL_SECONDS and not leg.stalled:
                log.info("session.stalled")
                leg.stalled = True
                self._changed.set()
                leg.circuit.silent()
                self._take_back(leg)
                self._mend()
            else:
                leg.keep_alive()

    def _count(self, *, sent: bool) -> None:
        # Both ends count the same messages, so both begin to look for the second leg without a word about it.
        self._carried[sent] += 1
        if self._carried[sent] == WINDOW[self.cell_class].circuit:
            self._mend()

    def _lacking(self) -> bool:
        much = max(self._carried.values(), default=0) >= WINDOW[self.cell_class].circuit and not self._paced
        return sum(not leg.stalled for leg in self._legs) < 1 + much

    def _mend(self) -> None:
        if self._mending is None and self._error is None and not self._closing and self._lacking():
            self._mending = asyncio.get_running_loop().create_task(self._find_legs())

    async def _find_legs(self) -> None:
        try:
            while self._error is None and self._lacking():
                if not await self._find_leg():
                    break
        finally:
            self._mending = None
        if self._best() is None:
            self._mend()

    async def _find_leg(self) -> bool:
        alone = self._best() is None
        busy = {entry.node_id for leg in self._legs for entry in leg.circuit.path}
        try:
            async with asyncio.timeout(MEND_SECONDS if alone else _WIDEN_SECONDS):
                leg = await self._meet_again(() if alone else busy)
        except (TimeoutError, VeilpodError) as error:
            log.info("session.no_leg", extra={"alone": alone, "reason": getattr(error, "reason", type(error).__name__)})
            if alone and self._best() is None:
                self._end(CircuitFailed("the session has lost its last leg, and its ends could not meet again"))
            return False
        self.attach(leg)
        return True

    def _end(self, error: VeilpodError, tell: EndReason | None = None) -> None:
        if self._error is not None:
            return
        self._error = error
        self._looking.cancel()
        legs, self._legs = self._legs, []
        for leg in legs:
            if tell is None:
                leg.close()
            else:
                leg.leave(tell)
        if self._mending is not None and self._mending is not asyncio.current_task():
            self._mending.cancel()
        self._outbox, self._inbox = Outbox(), Inbox(0)
        self._mux.fail(error)
        self._changed.set()
        self._accepted.put_nowait(None)


def _carry(sent: Sent, leg: Leg) -> None:
    sent.leg = leg
    leg.send(sent.number, sent.command, sent.data, flags=sent.flags, stream_id=sent.stream_id)
