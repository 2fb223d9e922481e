"""A circuit as its client sees it: built in one round trip, then a carrier of relay messages to and from the last hop.

It ends with a CircuitFailed that names the failing link when the relays' reports, or a layer that does not open, tell which it was. Who
talks over it (streams to an exit, a rendezvous, a session) takes its messages through `receiver`. Paper step 5.
"""

import asyncio
import collections
import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from veilpod.core.ids import NodeId
from veilpod.core.onion import ntor, reports
from veilpod.core.onion.cells import Command, Header
from veilpod.core.onion.directory import RelayEntry
from veilpod.core.onion.geometry import GEOMETRY, HEADER, CellClass
from veilpod.core.onion.joining import ONE_SHOT, Joining, nest, open_answer
from veilpod.core.onion.layers import HopKeys, TamperedError, client_open, client_seal
from veilpod.core.onion.messages import (
    DestroyReason,
    Extend,
    Message,
    RelayCommand,
    check_kind,
    kind_for,
    parse_created,
    parse_message,
    put_message,
)
from veilpod.errors import CircuitFailed, PeerUnavailable, ProtocolViolation, VeilpodError
from veilpod.net.link import Link

log = logging.getLogger(__name__)
_HOP_TIMEOUT = 20.0  # longer than a relay's own for reaching the next one, so that its report arrives first


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CircuitSummary:
    """What a demonstration may show of a circuit. Production passes no `trace` and none is ever made."""

    number: int
    purpose: str  # "exit" | "rendezvous" | "meeting"
    relays: tuple[NodeId, ...]
    state: str  # "built" | "busy" | "closed"
    bytes_sent: int
    bytes_received: int


Trace = Callable[[CircuitSummary], None]


class Receiver(Protocol):
    """Who uses a circuit."""

    def on_message(self, message: Message) -> None:
        """A message of the last hop; the view is valid during the call. May raise ProtocolViolation or TamperedError."""

    def on_failed(self, error: VeilpodError) -> None: ...


class Circuit:
    """One circuit over a link to its guard."""

    def __init__(self, link: Link, path: Sequence[RelayEntry], cell_class: CellClass) -> None:
        self.path, self.cell_class = tuple(path), cell_class
        self.data_max = GEOMETRY[cell_class].data_max
        self.receiver: Receiver | None = None
        self.bytes_sent = self.bytes_received = 0
        self.error: VeilpodError | None = None
        self.on_traffic: Callable[[], None] | None = None
        self.on_closed: Callable[[], None] | None = None
        self.on_silent: Callable[[], None] | None = None
        self._link, self._id = link, link.new_circuit_id()
        self._hops: list[HopKeys] = []
        self._joining: collections.deque[Joining] = collections.deque()
        self._cells = {kind: memoryview(bytearray(GEOMETRY[kind].cell)) for kind in CellClass if kind <= cell_class}
        self._waiting: tuple[RelayCommand, asyncio.Future[bytes]] | None = None
        self._created: asyncio.Future[bytes] | None = None
        link.routes[self._id] = self

    async def build(self) -> None:
        """Join every relay of the path: the first three with one CREATE, further ones hop by hop. Raises CircuitFailed."""
        try:
            self._check()
            self._created = asyncio.get_running_loop().create_future()
            self._link.send_control(self._id, Command.CREATE, self._nest(self.path[:ONE_SHOT]).create)
            await self._answer(self._created, _HOP_TIMEOUT)
            for entry in self.path[ONE_SHOT:]:
                extend = self._nest([entry]).pack()
                self._on_created(await self.ask(RelayCommand.EXTEND, extend, RelayCommand.EXTENDED, timeout=_HOP_TIMEOUT))
                self._check()
        except BaseException:
            self.close()
            raise

    async def ask(self, command: RelayCommand, data: bytes, answer: RelayCommand, *, timeout: float) -> bytes:
        """Send a message to the last hop and wait for its answer. Raises CircuitFailed."""
        self._check()
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting = (answer, future)
        self.send_message(command, data)
        return await self._answer(future, timeout)

    def send_message(self, command: RelayCommand, data: bytes | memoryview, *, flags: int = 0, stream_id: int = 0) -> None:
        """Send a message to the last hop. Does nothing once the circuit is gone."""
        kind = kind_for(command, self.cell_class)
        put_message(self.area(kind), command, data, flags=flags, stream_id=stream_id)
        self.send_area(kind, Command.RELAY_EARLY if command is RelayCommand.EXTEND else Command.RELAY)

    def area(self, kind: CellClass) -> memoryview:
        """Where the next message to the last hop is written, before `send_area`."""
        return self._cells[kind][HEADER : HEADER + GEOMETRY[kind].plain(len(self._hops))]

    def send_area(self, kind: CellClass, command: Command = Command.RELAY) -> None:
        """Seal and send what was written into `area`."""
        if self.error is not None:
            return
        cell = self._cells[kind]
        client_seal(self._hops, cell[HEADER:], GEOMETRY[kind], command)
        if not self._link.send_layered(Header(circ_id=self._id, command=command, cell_class=kind), cell):
            self._fail(CircuitFailed("the guard takes no more cells", blamed=self._pair((0, 1))))
        self.bytes_sent += len(cell)
        if self.on_traffic is not None:
            self.on_traffic()

    async def ready(self) -> None:
        """Wait while the link has too much of this circuit queued."""
        await self._link.ready(self._id)

    @property
    def has_room(self) -> bool:
        """Whether `ready` would return at once."""
        return self._link.has_room(self._id)

    def silent(self) -> None:
        """Say that its user waits for an answer in vain. Nobody can be blamed, and everybody on the path avoided."""
        if self.on_silent is not None:
            self.on_silent()

    def fail(self, error: VeilpodError) -> None:
        """End the circuit because of what its user saw."""
        self._fail(error)

    def close(self) -> None:
        """End the circuit in good order, behind everything that was sent."""
        if self.error is None:
            self._fail(CircuitFailed("the circuit was closed"))

    # --- the link's calls

    def on_layered(self, header: Header, cell: memoryview) -> None:
        self.bytes_received += len(cell)
        body, geometry = cell[HEADER:], GEOMETRY[header.cell_class]
        try:
            if header.command is not Command.RELAY or header.cell_class > self.cell_class or not self._hops:
                raise TamperedError
            client_open(self._hops, body, geometry)
            message = parse_message(body[: geometry.plain(len(self._hops))])
            check_kind(message.command, header.cell_class, self.cell_class)
            self._on_message(message)
        except TamperedError as error:
            pair = (error.layer, error.layer + 1)
            self._fail(CircuitFailed("a cell was altered on its way to us", blamed=self._pair(pair)), DestroyReason.TAMPERED)
        except ProtocolViolation as error:
            # Whoever wrote it, this circuit is over and another one may do better: transient for our user.
            log.warning("circuit.violation", extra={"reason": error.reason})
            self._fail(CircuitFailed(f"the circuit is over: {error}"), DestroyReason.PROTOCOL)
        if self.on_traffic is not None:
            self.on_traffic()

    def on_control(self, command: Command, payload: bytes) -> None:
        if command is Command.CREATED:
            if self._created is None or self._hops:
                self._fail(CircuitFailed("a CREATED that nobody asked for", blamed=self._pair((0, 1))), DestroyReason.PROTOCOL)
            else:
                self._on_created(payload)
            return
        self._link.routes.pop(self._id, None)
        self._fail(self._destroyed(payload), tell=False)

    def on_link_lost(self) -> None:
        self._fail(CircuitFailed("the link to the guard was lost", blamed=self._pair((0, 1))), tell=False)

    # --- inside

    def _nest(self, entries: Sequence[RelayEntry]) -> Extend:
        """Begin handshakes with the next relays."""
        hops = [
            Joining(entry=entry, position=position, cell_class=self.cell_class, ephemeral=ntor.Ephemeral.generate())
            for position, entry in enumerate(entries, len(self._hops) + 1)
        ]
        self._joining = collections.deque(hops)
        return nest(hops)

    def _on_created(self, payload: bytes) -> None:
        """Finish the handshakes, hop by hop. At once, as a report that only the new keys open may be in the next cell."""
        while self._joining and payload:
            position = len(self._hops) + 1
            try:
                created = parse_created(payload)
                self._hops.append(HopKeys(self._joining[0].finish(created)))
                self._joining.popleft()
                payload = open_answer(self._hops[-1], created.onward) if created.onward else b""
            except ProtocolViolation:
                pair = self._pair((position - 1, position))
                self._fail(CircuitFailed("a relay could not prove its onion key", blamed=pair), DestroyReason.PROTOCOL)
                return
        # Hops that are left were not reached: the last one that answered ends the circuit and says why.
        if not self._joining and self._created is not None and not self._created.done():
            self._created.set_result(b"")

    async def _answer(self, future: asyncio.Future[bytes], timeout: float) -> bytes:
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError as error:
            blamed = self._pair((len(self._hops), len(self._hops) + 1)) if self._joining else None
            if blamed is None:
                self.silent()
            silent = CircuitFailed("a relay did not answer in time", blamed=blamed)
            self._fail(silent)
            raise silent from error

    def _on_message(self, message: Message) -> None:
        if self._waiting is not None and message.command is self._waiting[0]:
            _, future = self._waiting
            self._waiting = None
            if not future.done():
                future.set_result(bytes(message.data))
        elif self.receiver is not None:
            self.receiver.on_message(message)
        elif message.command is not RelayCommand.DROP:
            raise ProtocolViolation("BadMessage", f"{message.command.name} that nobody asked for", party="relay")

    def _destroyed(self, payload: bytes) -> VeilpodError:
        try:
            reason, report = reports.parse_destroy(payload)
        except ProtocolViolation:
            return CircuitFailed("the guard ended the circuit without a reason", blamed=self._pair((0, 1)))
        if not self._hops or report is None:
            return CircuitFailed(f"the guard ended the circuit: {reason.name.lower()}", blamed=self._pair((0, 1)))
        told = reports.open_report(self._hops, report)
        if told.reason is DestroyReason.NO_SUCH_COOKIE:
            return PeerUnavailable("nobody waits at the meeting relay under this cookie")
        blamed = self._pair(told.blamed) if told.blamed else None
        return CircuitFailed(f"a relay ended the circuit: {told.reason.name.lower()}", blamed=blamed)

    def _pair(self, positions: tuple[int, int]) -> tuple[int, int]:
        """Node ids of a link between two positions; 0 is ourselves. A last hop that accuses who would be behind it accuses itself."""
        ids = (0, *(int(entry.node_id) for entry in self.path))
        near = min(positions[0], len(ids) - 2)
        return ids[near], ids[near + 1]

    def _check(self) -> None:
        if self.error is not None:
            raise self.error

    def _fail(self, error: VeilpodError, reason: DestroyReason = DestroyReason.FINISHED, *, tell: bool = True) -> None:
        if self.error is not None:
            return
        self.error = error
        if tell and self._link.alive:
            self._link.send_destroy(self._id, reason)
        self._link.routes.pop(self._id, None)
        self._hops = []
        for future in (self._created, self._waiting[1] if self._waiting else None):
            if future is not None and not future.done():
                future.set_exception(error)
                future.exception()
        if self.receiver is not None:
            self.receiver.on_failed(error)
        if self.on_closed is not None:
            self.on_closed()
