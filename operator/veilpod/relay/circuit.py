"""A relay's part of one circuit.

It takes a layer off towards the end, puts one on towards the client, and is the last hop when there is no next. As the last hop it
extends, exits, or meets: two circuits whose ends named the same cookie are spliced, and only FORWARD messages pass between them. Every
failure ends the circuit with a report that names this relay and the link it blames. What the process holds (keys, links, cookies,
directory) is behind `Router`. Paper step 5.
"""

import asyncio
import logging
import os
from typing import Protocol

from veilpod.core.onion.cells import Command, Header
from veilpod.core.onion.geometry import COOKIE, GEOMETRY, HEADER, MAX_HOPS, MESSAGE_HEADER, CellClass, geometry_of
from veilpod.core.onion.joining import ANSWER_MAX, seal_answer
from veilpod.core.onion.layers import HopKeys, TamperedError, relay_open, relay_seal
from veilpod.core.onion.messages import (
    Created,
    DestroyReason,
    Extend,
    Message,
    RelayCommand,
    check_kind,
    kind_for,
    parse_created,
    parse_extend,
    parse_join,
    parse_message,
    put_message,
)
from veilpod.core.onion.reports import Side, make_report, parse_destroy, wrap_report
from veilpod.errors import ProtocolViolation
from veilpod.net.link import Link
from veilpod.relay.exits import Exits

log = logging.getLogger(__name__)


class Router(Protocol):
    """What a circuit asks of its process."""

    def extend(self, circuit: "RelayCircuit", extend: Extend) -> None:
        """Reach the next relay. Raises ProtocolViolation for what no honest client asks."""

    def leave_cookie(self, circuit: "RelayCircuit", cookie: bytes) -> bool: ...
    def take_cookie(self, cookie: bytes) -> "RelayCircuit | None": ...
    def exits(self, circuit: "RelayCircuit") -> Exits: ...
    def scratch(self, cell_class: CellClass) -> memoryview:
        """A cell to write a message in and send it before anybody else runs: one for all circuits."""

    def count(self, name: str) -> None: ...
    def gone(self, circuit: "RelayCircuit") -> None: ...


class RelayCircuit:
    """One circuit through this relay. Itself the sink of cells from the client's side, and carrier of messages back to the client."""

    def __init__(self, router: Router, link: Link, circ_id: int, *, keys: HopKeys, cell_class: CellClass, position: int) -> None:
        self.cell_class, self.position = cell_class, position
        self.data_max = GEOMETRY[cell_class].data_max
        self.previous, self.previous_id = link, circ_id
        self.next: NextHop | None = None
        self.partner: RelayCircuit | None = None
        self.cookie: bytes | None = None
        self.extending = False
        self.dead = False
        self._unanswered: bytes | None = None  # our handshake's answer, held back until the next hop's can go with it
        self._router, self._keys = router, keys
        self._early_left = MAX_HOPS
        self._exits: Exits | None = None

    # --- cells from the client's side

    def on_layered(self, header: Header, cell: memoryview) -> None:
        self._router.count("cells")
        if header.command is Command.RELAY_EARLY:
            self._early_left -= 1
        if header.cell_class > self.cell_class or self._early_left < 0:
            self.destroy(DestroyReason.PROTOCOL, Side.PREVIOUS)
            return
        body, geometry = cell[HEADER:], GEOMETRY[header.cell_class]
        try:
            if self.next is not None:
                relay_open(self._keys, body, self.position, geometry, header.command, os.urandom)
                self.next.send(header, cell)
            else:
                size = geometry.plain(self.position)
                self._keys.forward.open(body, size, geometry.kind, header.command)
                message = parse_message(body[:size])
                check_kind(message.command, header.cell_class, self.cell_class)
                self._consume(message, header, cell)
        except TamperedError:
            self._router.count("tampered")
            self.destroy(DestroyReason.TAMPERED, Side.PREVIOUS)
        except ProtocolViolation as error:
            log.info("circuit.violation", extra={"reason": error.reason})
            self.destroy(DestroyReason.PROTOCOL, Side.NONE)

    def on_control(self, command: Command, payload: bytes) -> None:
        if command is Command.DESTROY:
            self.previous.routes.pop(self.previous_id, None)
            self._forget(DestroyReason.FINISHED)
        else:
            self.destroy(DestroyReason.PROTOCOL, Side.PREVIOUS)

    def on_link_lost(self) -> None:
        self._forget(DestroyReason.LINK_LOST)

    # --- cells and messages to the client's side

    def send_back(self, cell: memoryview) -> None:
        """Put our layer on a cell from the next hop and pass it on."""
        relay_seal(self._keys, cell[HEADER:], self.position, geometry_of(cell), os.urandom)
        self._send(cell)

    def send_message(self, command: RelayCommand, data: bytes | memoryview, *, flags: int = 0, stream_id: int = 0) -> None:
        """Say something to the client as its last hop."""
        if not self.dead:
            kind = kind_for(command, self.cell_class)
            cell = self._router.scratch(kind)
            put_message(cell[HEADER : HEADER + GEOMETRY[kind].plain(self.position)], command, data, flags=flags, stream_id=stream_id)
            self.send_back(cell)

    async def ready(self) -> None:
        """Wait while too much of this circuit is queued towards the client."""
        await self.previous.ready(self.previous_id)

    def join(self, reply: bytes, onward: Extend | None) -> None:
        """Answer the CREATE that made us: at once, or together with the relay that it goes on to. Raises ProtocolViolation."""
        self._unanswered = reply
        if onward is None:
            self._created()
        else:
            self.extending = True
            self._router.extend(self, onward)

    def extended(self, payload: bytes) -> None:
        """The next hop has joined: say so to the client."""
        try:
            created = parse_created(payload).pack()  # without the fill
        except ProtocolViolation:
            self.destroy(DestroyReason.PROTOCOL, Side.NEXT)
            return
        self.extending = False
        if self._unanswered is None:
            self.send_message(RelayCommand.EXTENDED, created[: self.data_max])
        elif len(created) > ANSWER_MAX:  # no honest relay answers so much
            self.destroy(DestroyReason.PROTOCOL, Side.NEXT)
        else:
            self._created(seal_answer(self._keys, created))

    def splice(self, partner: "RelayCircuit", onionskin: bytes) -> None:
        """Become one half of a meeting; the other half's onionskin goes to the host."""
        self.partner, partner.partner = partner, self
        self.send_message(RelayCommand.MEET, onionskin)

    # --- the end

    def destroy(self, reason: DestroyReason, side: Side) -> None:
        """End the circuit and tell the client why."""
        self.finish(reason, make_report(self._keys, self.position, reason, side, os.urandom))

    def relay_destroy(self, payload: bytes) -> None:
        """The next hop ended the circuit: pass its report on under our layer."""
        try:
            _, report = parse_destroy(payload)
        except ProtocolViolation:
            report = None
        if report is None:
            self.destroy(DestroyReason.PROTOCOL, Side.NEXT)
        else:
            self.finish(DestroyReason.FINISHED, wrap_report(self._keys, self.position, report, os.urandom))

    def finish(self, reason: DestroyReason, report: bytes) -> None:
        """Send DESTROY to the client's side and forget the circuit."""
        if not self.dead:
            if self._unanswered is not None:
                self._created()  # without it the client has no key to open the report
            self.previous.send_destroy(self.previous_id, reason, report)
            self._forget(reason)

    def _forget(self, reason: DestroyReason) -> None:
        if self.dead:
            return
        self.dead = True
        self.previous.routes.pop(self.previous_id, None)
        if self.next is not None:
            self.next.end()
        if self._exits is not None:
            self._exits.close()
        if self.partner is not None:
            self.partner.destroy(DestroyReason.PEER_CLOSED, Side.NONE)
        self._router.gone(self)

    # --- as the last hop

    def _consume(self, message: Message, header: Header, cell: memoryview) -> None:
        if self.partner is not None:
            self._pass(message, self.partner, cell)
        elif message.command is RelayCommand.EXTEND:
            self._on_extend(bytes(message.data), header)
        elif message.command is RelayCommand.ESTABLISH:
            self._on_establish(bytes(message.data))
        elif message.command is RelayCommand.JOIN:
            self._on_join(bytes(message.data))
        elif self._exits is not None or message.command is not RelayCommand.DROP:
            self._exit().mux.handle(message)

    def _on_extend(self, data: bytes, header: Header) -> None:
        # The bound on path lengths hangs on this: an EXTEND costs one of the eight RELAY_EARLY cells.
        if header.command is not Command.RELAY_EARLY or self.extending or self.cookie or self._exits:
            raise ProtocolViolation("BadExtend", "an EXTEND where none may come")
        self.extending = True
        self._router.extend(self, parse_extend(data))

    def _on_establish(self, cookie: bytes) -> None:
        if len(cookie) != COOKIE or self.cookie or self._exits or self.extending:
            raise ProtocolViolation("BadEstablish", "a cookie where none may come")
        if not self._router.leave_cookie(self, cookie):
            self.destroy(DestroyReason.RESOURCE, Side.NONE)
            return
        self.cookie = cookie
        self.send_message(RelayCommand.ESTABLISHED, b"")

    def _on_join(self, data: bytes) -> None:
        if self.cookie or self._exits or self.extending:
            raise ProtocolViolation("BadJoin", "a meeting where none may be")
        cookie, onionskin = parse_join(data)
        host = self._router.take_cookie(cookie)
        if host is None or host.cell_class is not self.cell_class:
            self.destroy(DestroyReason.NO_SUCH_COOKIE, Side.NONE)
            return
        self._router.count("meetings")
        host.splice(self, onionskin)

    def _pass(self, message: Message, partner: "RelayCircuit", cell: memoryview) -> None:
        """Move a message across the splice, in place: same size at every position, whatever the two paths' lengths."""
        geometry = geometry_of(cell)
        sealed = message.command is RelayCommand.FORWARD and len(message.data) == geometry.data_max
        if not sealed and message.command is not RelayCommand.MET:
            raise ProtocolViolation("BadMessage", "only sealed messages pass between two circuits")
        if message.command is RelayCommand.MET:
            partner.send_message(RelayCommand.MET, message.data)
            return
        body = cell[HEADER:]
        end, limit = MESSAGE_HEADER + geometry.data_max, geometry.plain(partner.position)
        body[end:limit] = bytes(limit - end)
        partner.send_back(cell)

    def _created(self, onward: bytes = b"") -> None:
        reply, self._unanswered = self._unanswered, None
        assert reply is not None
        self.previous.send_control(self.previous_id, Command.CREATED, Created(reply=reply, onward=onward).pack())

    def _exit(self) -> Exits:
        if self._exits is None:
            if self.cookie or self.extending:
                raise ProtocolViolation("BadMessage", "a stream where none may come")
            self._exits = self._router.exits(self)
        return self._exits

    def _send(self, cell: memoryview) -> None:
        header = Header(circ_id=self.previous_id, command=Command.RELAY, cell_class=geometry_of(cell).kind)
        if not self.previous.send_layered(header, cell):
            # More than a whole window is queued: whoever sends does not keep to its credit, or nobody there reads.
            self.destroy(DestroyReason.RESOURCE, Side.PREVIOUS)


class NextHop:
    """The far side of a circuit: sink of the next relay's cells."""

    def __init__(self, circuit: RelayCircuit, link: Link) -> None:
        self._circuit, self._link, self._id = circuit, link, link.new_circuit_id()
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        link.routes[self._id] = self

    def create(self, payload: bytes) -> None:
        """Ask the next relay to join the circuit."""
        self._link.send_control(self._id, Command.CREATE, payload)

    def send(self, header: Header, cell: memoryview) -> None:
        """Pass a cell on."""
        onward = Header(circ_id=self._id, command=header.command, cell_class=header.cell_class)
        if not self._link.send_layered(onward, cell):
            self._circuit.destroy(DestroyReason.RESOURCE, Side.NEXT)

    def end(self) -> None:
        """The circuit is over on our side."""
        self._answer()
        if self._id in self._link.routes and self._link.alive:
            self._link.send_destroy(self._id, DestroyReason.FINISHED)
        self._link.routes.pop(self._id, None)

    # --- the link's calls

    def on_layered(self, header: Header, cell: memoryview) -> None:
        if self._circuit.next is not self or header.command is not Command.RELAY or header.cell_class > self._circuit.cell_class:
            self._circuit.destroy(DestroyReason.PROTOCOL, Side.NEXT)
        else:
            self._circuit.send_back(cell)

    def on_control(self, command: Command, payload: bytes) -> None:
        self._answer()
        if command is Command.DESTROY:
            self._link.routes.pop(self._id, None)
            if self._circuit.next is self:
                self._circuit.relay_destroy(payload)
            else:
                self._circuit.destroy(DestroyReason.EXTEND_REFUSED, Side.NEXT)
        elif self._circuit.next is self or self._circuit.dead:
            self._circuit.destroy(DestroyReason.PROTOCOL, Side.NEXT)
        else:
            self._circuit.next = self
            self._circuit.extended(payload)

    def on_link_lost(self) -> None:
        self._answer()
        self._circuit.destroy(DestroyReason.LINK_LOST, Side.NEXT)

    def _answer(self) -> None:
        if not self.answered.done():
            self.answered.set_result(None)
