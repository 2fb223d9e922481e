"""A TCP link between a client and a relay, or between two relays: handshake, cells in, cells out.

Cells are received into one buffer and handed on as views into it: whoever keeps a cell copies it. What goes out is written at once while
the socket takes it and waits in one queue per circuit when it does not; the queues are served round robin and bounded by the end-to-end
windows, so a full one means that somebody broke the protocol. A link keeps itself alive with PADDING at random intervals and gives up a
peer that is silent, or takes nothing, for a minute.

Rules of the wire are in core.onion; who the circuits are is the owner's business. Paper step 5.
"""

import asyncio
import dataclasses
import logging
import random
import sys
from typing import Protocol

from veilpod.core.onion.cells import LAYERED, Command, Header, parse_header, put_header
from veilpod.core.onion.geometry import GEOMETRY, HEADER, LARGEST_CELL, SAMPLE, WINDOW, CellClass
from veilpod.core.onion.link import FINAL, HELLO, REPLY, Initiator, LinkHalf, Responder
from veilpod.core.onion.messages import DestroyReason
from veilpod.core.onion.reports import pack_destroy, refuses_all
from veilpod.errors import ProtocolViolation
from veilpod.net.budget import Budget
from veilpod.net.queues import Queues

log = logging.getLogger(__name__)

_BUFFER = 8 * LARGEST_CELL
_STRANGERS_BUFFER = 2 * LARGEST_CELL  # what anybody may make us hold by connecting
_HIGH_WATER = 4 * LARGEST_CELL
_CIRCUIT_IDS = 1 << 31
# From 3.12 on a transport keeps a view of what the socket did not take; ours would change under it.
_COPY_ON_WRITE = sys.version_info >= (3, 12)
_random = random.SystemRandom()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds after which a link does something by itself."""

    handshake: float = 10.0
    quiet: float = 60.0  # nothing from the peer, or nothing taken by it: give it up
    idle: float = 120.0  # no circuit: the dialling side closes
    pad_least: float = 1.5
    pad_most: float = 9.5


class Sink(Protocol):
    """One end of a circuit, as a link sees it."""

    def on_layered(self, header: Header, cell: memoryview) -> None:
        """A RELAY or RELAY_EARLY cell. The view is valid during the call only."""

    def on_control(self, command: Command, payload: bytes) -> None:
        """A CREATED or DESTROY cell's payload."""

    def on_link_lost(self) -> None: ...


class LinkOwner(Protocol):
    """Who made a link."""

    def on_create(self, link: "Link", circ_id: int, payload: bytes) -> None:
        """A CREATE for a circuit id that is free."""

    def on_link_open(self, link: "Link") -> None: ...
    def on_link_closed(self, link: "Link") -> None: ...


class Link(asyncio.BufferedProtocol):
    """One TCP connection. `peer` is the other side's identity key once `opened` is done, None for an anonymous client."""

    def __init__(self, owner: LinkOwner, shake: Initiator | Responder, *, budget: Budget, timing: Timing | None = None) -> None:
        self._owner, self._shake, self._budget, self._timing = owner, shake, budget, timing or Timing()
        self.peer: bytes | None = shake.expected if isinstance(shake, Initiator) else None
        self.initiated = isinstance(shake, Initiator)
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.routes: dict[int, Sink] = {}
        self.alive = self._refused = self._closing = self._silent = self._leaving = False
        self.bytes_in = self.bytes_out = 0
        self._transport: asyncio.Transport
        self._send: LinkHalf
        self._receive: LinkHalf
        self._buffer = memoryview(bytearray(max(HELLO, REPLY, FINAL)))
        self._start = self._end = 0
        self._need = REPLY if self.initiated else HELLO
        self._header: Header | None = None
        self._queues = Queues(budget)
        self._blocked = False
        self._next_id = 0
        self._timer: asyncio.TimerHandle | None = None
        self._heard = self._moved = self._used = 0.0
        self._waiting = 0

    # --- the transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._refused:
            transport.abort()
            return
        transport.set_write_buffer_limits(high=_HIGH_WATER)
        self._timer = asyncio.get_running_loop().call_later(self._timing.handshake, self._handshake_too_slow)
        if isinstance(self._shake, Initiator):
            transport.write(self._shake.hello)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer[self._end :] if self.alive else self._buffer[self._end : self._need]

    def buffer_updated(self, nbytes: int) -> None:
        self._end += nbytes
        self.bytes_in += nbytes
        try:
            if self.alive:
                self._heard = self._now()
                self._budget.received(nbytes)
                self._take_cells()
            elif self._end == self._need:
                self._shake_hands(bytes(self._buffer[: self._end]))
        except ProtocolViolation as error:
            log.warning("link.violation", extra={"reason": error.reason})
            self.abort()

    def pause_writing(self) -> None:
        self._blocked = True
        self._moved = self._now()

    def resume_writing(self) -> None:
        self._blocked = False
        self._moved = self._now()
        self._drain()

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive = False
        if self._timer is not None:
            self._timer.cancel()
        self._blocked = False  # nothing is queued for a link that is gone
        self._budget.leave(self, self._queues.clear())
        for sink in list(self.routes.values()):
            sink.on_link_lost()
        self.routes.clear()
        if not self.opened.done():
            self.opened.set_exception(ConnectionError("the link closed during its handshake"))
            self.opened.exception()  # somebody may have stopped waiting
        if not self.closed.done():
            self.closed.set_result(None)
        self._owner.on_link_closed(self)

    # --- what the owner and circuits call

    @property
    def usable(self) -> bool:
        """Whether new circuits may begin here. Not where the peer drains: its successor may have its identity and its address already."""
        return self.alive and not self._closing and not self._leaving

    def new_circuit_id(self) -> int:
        """A circuit id of our half of the space (the dialling side has the upper one). Never used twice on a link."""
        self._next_id += 1
        if self._next_id >= _CIRCUIT_IDS:
            self.abort()
        return self._next_id | (_CIRCUIT_IDS if self.initiated else 0)

    def foreign_circuit_id(self, circ_id: int) -> bool:
        """Whether an id belongs to the peer's half of the space."""
        return circ_id != 0 and bool(circ_id & _CIRCUIT_IDS) is not self.initiated

    def send_layered(self, header: Header, cell: memoryview) -> bool:
        """Send a cell whose body is finished. False when its circuit's queue is over its bound: destroy the circuit."""
        put_header(cell, header)
        if not self._blocked and not self._queues:
            self._emit(cell, layered=True)
            return True
        if self._queues.length(header.circ_id) >= 2 * WINDOW[header.cell_class].circuit:
            return False
        self._queues.put(header.circ_id, memoryview(bytearray(cell)))
        return True

    def send_control(self, circ_id: int, command: Command, payload: bytes) -> None:
        """Send a link cell, behind what its circuit has queued."""
        cell = memoryview(bytearray(GEOMETRY[CellClass.SMALL].cell))
        put_header(cell, Header(circ_id=circ_id, command=command, cell_class=CellClass.SMALL))
        cell[HEADER : HEADER + len(payload)] = payload
        if not self._blocked and not self._queues:
            self._emit(cell, layered=False)
        else:
            self._queues.put(circ_id, cell)

    def send_destroy(self, circ_id: int, reason: DestroyReason, report: bytes | None = None) -> None:
        """End a circuit on this link and forget it."""
        self.routes.pop(circ_id, None)
        self.send_control(circ_id, Command.DESTROY, pack_destroy(reason, report))

    async def ready(self, circ_id: int) -> None:
        """Wait while too much of this circuit is queued here. Returns when the link is lost, too: sends then go nowhere."""
        await self._queues.room(circ_id)

    def has_room(self, circ_id: int) -> bool:
        """Whether little enough of this circuit is queued here."""
        return self._queues.has_room(circ_id)

    def pause_reading(self) -> None:
        """Stop taking bytes from the peer: this process holds too much already."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take bytes again."""
        self._transport.resume_reading()
        self._heard = self._now()

    def refuse(self) -> None:
        """Close as soon as the connection is made: there are too many."""
        self._refused = True

    def close(self) -> None:
        """Close once everything that was sent has gone and the peer has closed, too. Who cannot wait for ever calls `abort` later."""
        self._closing = True
        if not self._queues:
            self._say_goodbye()

    def abort(self) -> None:
        """Close now."""
        self.alive = False
        self._transport.abort()

    # --- inside

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _say_goodbye(self) -> None:
        # Half-close and go on reading: closing a socket on which the peer still sends would be a reset, which takes from the peer what it
        # has not read.
        if self.alive:
            self._silent = True
            self._transport.write_eof()
        else:
            self._transport.abort()

    def _shake_hands(self, message: bytes) -> None:
        self._start = self._end = 0
        if isinstance(self._shake, Initiator):
            third, self._send, self._receive = self._shake.finish(message)
            self._transport.write(third)
        elif self._need == HELLO:
            self._transport.write(self._shake.reply(message))
            self._need = FINAL
            return
        else:
            self.peer, self._send, self._receive = self._shake.finish(message)
        self.alive = True
        self._buffer = memoryview(bytearray(_STRANGERS_BUFFER if self.peer is None else _BUFFER))
        self._heard = self._moved = self._used = self._now()
        self._budget.join(self)
        self._owner.on_link_open(self)
        if not self.opened.done():
            self.opened.set_result(None)
        if self._timer is not None:
            self._timer.cancel()
        self._tick()

    def _handshake_too_slow(self) -> None:
        self._transport.abort()

    def _take_cells(self) -> None:
        while self.alive and self._end - self._start >= HEADER + SAMPLE:
            if self._header is None:
                self._receive.mask.apply(self._buffer[self._start : self._start + HEADER + SAMPLE])
                self._header = parse_header(self._buffer[self._start : self._start + HEADER])
            size = GEOMETRY[self._header.cell_class].cell
            if self._end - self._start < size:
                break
            cell, header = self._buffer[self._start : self._start + size], self._header
            self._start += size
            self._header = None
            self._dispatch(header, cell)
        if self._start == self._end:
            self._start = self._end = 0
        elif len(self._buffer) - self._start < LARGEST_CELL:
            rest = self._end - self._start
            self._buffer[:rest] = self._buffer[self._start : self._end]
            self._start, self._end = 0, rest

    def _dispatch(self, header: Header, cell: memoryview) -> None:
        if header.command in LAYERED:
            # A cell of a circuit that was just destroyed is no offence: it was under way.
            if (sink := self.routes.get(header.circ_id)) is not None:
                sink.on_layered(header, cell)
            return
        payload = self._receive.open(cell)
        if header.command is Command.CREATE:
            if header.circ_id in self.routes or not self.foreign_circuit_id(header.circ_id):
                raise ProtocolViolation("BadCircuitId", "a CREATE with an id that is not the peer's to give")
            self._owner.on_create(self, header.circ_id, payload)
            return
        if header.command is Command.DESTROY and refuses_all(payload):
            self._leaving = True
        if header.command in (Command.CREATED, Command.DESTROY) and (sink := self.routes.get(header.circ_id)) is not None:
            sink.on_control(header.command, payload)

    def _emit(self, cell: memoryview, *, layered: bool) -> None:
        if not self.alive or self._silent:
            return
        if not layered:
            self._send.seal(cell)
        self._send.mask.apply(cell)
        self.bytes_out += len(cell)
        self._transport.write(bytes(cell) if _COPY_ON_WRITE else cell)

    def _drain(self) -> None:
        self._queues.serve(self._emit_queued)
        if self._closing and not self._queues:
            self._say_goodbye()

    def _emit_queued(self, cell: memoryview) -> bool:
        self._emit(cell, layered=parse_header(cell).command in LAYERED)
        return not self._blocked and self.alive

    def _tick(self) -> None:
        """Once in a random while: pad when idle, give up a peer that is silent or takes nothing."""
        now = self._now()
        if self.routes:
            self._used = now
        elif now - self._used > self._timing.idle and self.initiated and not self._queues:
            self.close()
            return
        if (waiting := self._transport.get_write_buffer_size()) != self._waiting:
            self._waiting, self._moved = waiting, now
        if now - self._heard > self._timing.quiet and self._transport.is_reading():
            self.abort()
        elif self._blocked and now - self._moved > self._timing.quiet:
            log.warning("link.stalled")
            self.abort()
        elif not self._blocked and not self._queues:
            self.send_control(0, Command.PADDING, b"")
        self._timer = asyncio.get_running_loop().call_later(_random.uniform(self._timing.pad_least, self._timing.pad_most), self._tick)
