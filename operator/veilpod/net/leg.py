"""One leg of a session: a circuit to the meeting relay, the keys that both ends agreed on over it, and what is known of its health.

A leg counts what it sent and what the other end says has arrived, so that a session can give its next message to the leg that is least
behind, and sees when one stalls: everything but a bare ACK is answered by an ACK within `_ACK_SECONDS`.

With a constant rate a leg sends one full cell at each tick, from its first message to its end: what there is to say, or an ACK. Who
watches it learns that the session goes on, not whether anything is said. Paper steps 5 and 7.
"""

import asyncio
import collections
from collections.abc import Callable
from typing import Protocol

from veilpod.core.onion import congestion
from veilpod.core.onion.geometry import GEOMETRY
from veilpod.core.onion.layers import Direction, HopKeys, TamperedError, open_end_to_end, put_end_to_end
from veilpod.core.onion.legs import MAX_NUMBER, Numbers, pack_link
from veilpod.core.onion.messages import ECHO, EndReason, Message, RelayCommand, kind_for
from veilpod.errors import CircuitFailed, ProtocolViolation, VeilpodError
from veilpod.net.circuit import Circuit

_ACK_SECONDS = 0.05
_KEEPALIVE_SECONDS = 10.0
_WAITING = 2  # messages that wait for their tick before `ready` waits, too
_LATE_TICKS = 8  # that are made up for; a process that slept longer goes on from then
_NOTHING = (0, RelayCommand.ACK, b"", 0, 0)


class Owner(Protocol):
    """Who takes what a leg brings: a session, or a host that does not know yet whose leg it is."""

    def on_inner(self, leg: "Leg", numbers: Numbers, message: Message) -> None:
        """A message of the other end; the view is valid during the call. May raise ProtocolViolation: the leg is to be ended."""

    def on_leg_failed(self, leg: "Leg", error: VeilpodError) -> None: ...


class Leg:
    """One leg, from the end of its handshake on. `rate` in bytes a second, 0 for as they come."""

    def __init__(self, circuit: Circuit, keys: HopKeys, *, guest: bool, rate: int) -> None:
        self.circuit, self.keys = circuit, keys
        self.owner: Owner | None = None
        self.newest: Callable[[], int] = int  # what the session has received without a gap
        self.stalled = False
        self._outward: Direction = keys.forward if guest else keys.backward
        self._inward: Direction = keys.backward if guest else keys.forward
        self._congestion = congestion.CongestionWindow(congestion.tuning(circuit.cell_class))
        self._ack_messages = congestion.tuning(circuit.cell_class).step
        self._sent = self._confirmed = self._arrived = self._answered = 0
        self._clock = asyncio.get_running_loop().time
        self._moved = self._spoke = self._clock()  # when the other end confirmed something, or had nothing to; when we sent
        self._answer: asyncio.TimerHandle | None = None
        self._tick_seconds = GEOMETRY[circuit.cell_class].cell / rate if rate else 0.0
        self._line: collections.deque[tuple[int, RelayCommand, bytes | memoryview, int, int]] = collections.deque()
        self.changed = asyncio.Event()  # there may be room again; one for all legs of a session
        self._tick: asyncio.Handle | None = None
        circuit.receiver = self

    @property
    def paced(self) -> bool:
        """Whether it has a constant rate."""
        return self._tick_seconds > 0

    @property
    def outstanding(self) -> int:
        """Messages that are under way, as far as we know."""
        return self._sent - self._confirmed

    @property
    def load(self) -> float:
        """How much of what it may have under way is."""
        return self.outstanding / self._congestion.window

    @property
    def has_room(self) -> bool:
        """Whether the path, or the next ticks, would take one message more."""
        return len(self._line) < _WAITING if self.paced else self._congestion.room > 0

    @property
    def idle(self) -> float:
        """Seconds for which something was under way and nothing was confirmed."""
        return self._clock() - self._moved if self.outstanding else 0.0

    def link(self, session: bytes, key: bytes) -> None:
        """Say first whose leg this is."""
        self.send(0, RelayCommand.LINK, pack_link(session, key=key, leg=self.keys.session_id))

    def begin(self) -> None:
        """Start the ticks of a constant rate."""
        if self.paced and self._tick is None:
            self._tick = asyncio.get_running_loop().call_soon(self._on_tick, self._clock())

    def send(self, number: int, command: RelayCommand, data: bytes | memoryview, *, flags: int = 0, stream_id: int = 0) -> None:
        """Send a message to the other end, now or at a tick. The data does not change meanwhile. Does nothing once the circuit is gone."""
        if self.circuit.error is not None:
            return
        if command is not RelayCommand.ACK or flags & ECHO:
            self._spoke = self._clock()
            if not self.outstanding:
                self._moved = self._spoke
            self._sent += 1
            self._congestion.sent(self._spoke)
        if max(self._sent, self._arrived, number) >= MAX_NUMBER:
            self.circuit.fail(CircuitFailed("a leg has carried all it may"))
        elif self.paced:
            self._line.append((number, command, data, flags, stream_id))
        else:
            self._emit(number, command, data, flags, stream_id)

    def leave(self, reason: EndReason) -> None:
        """Tell the other end that the session is over, and end the circuit behind everything that was sent."""
        if self.circuit.error is None:
            self._emit(0, RelayCommand.END, bytes((reason,)), 0, 0)
        self.close()

    def keep_alive(self) -> None:
        """Ask for a sign of life if nothing was said for a while."""
        if self._clock() - self._spoke >= _KEEPALIVE_SECONDS and not self.outstanding:
            self.send(0, RelayCommand.ACK, b"", flags=ECHO)

    def close(self) -> None:
        """End the circuit behind everything that was sent."""
        self.circuit.close()

    # --- the circuit's calls

    def on_message(self, message: Message) -> None:
        """Open a FORWARD message."""
        if message.command is not RelayCommand.FORWARD:
            raise ProtocolViolation("BadMessage", f"{message.command.name} in a session", party="relay")
        try:
            numbers, inner = open_end_to_end(self._inward, message.data, self.circuit.cell_class)
        except TamperedError as error:
            # The path's own layers opened, so it was the meeting relay or beyond: behind our last hop, where we know nobody.
            raise ProtocolViolation("SessionTampered", "an end-to-end message was altered beyond the meeting relay") from error
        if not self._confirmed <= numbers.arrived <= self._sent:
            raise ProtocolViolation("BadMessage", "more has arrived than was sent")
        if numbers.arrived > self._confirmed or not self.outstanding:
            self._moved, self.stalled = self._clock(), False
        self._congestion.acknowledged(numbers.arrived - self._confirmed, self._clock())
        self._confirmed = numbers.arrived
        if self.has_room:
            self.changed.set()
        if inner.command is not RelayCommand.ACK or inner.flags & ECHO:
            self._arrived += 1
        if self.owner is not None:
            self.owner.on_inner(self, numbers, inner)
        self._acknowledge()

    def on_failed(self, error: VeilpodError) -> None:
        """The circuit is gone."""
        for timer in (self._answer, self._tick):
            if timer is not None:
                timer.cancel()
        self.changed.set()
        if self.owner is not None:
            self.owner.on_leg_failed(self, error)

    # --- inside

    def _emit(self, number: int, command: RelayCommand, data: bytes | memoryview, flags: int, stream_id: int) -> None:
        circuit = self.circuit
        self._answered = self._arrived
        kind = circuit.cell_class if self.paced else kind_for(command, circuit.cell_class)
        numbers = Numbers(number=number, newest=self.newest(), arrived=self._arrived)
        put_end_to_end(self._outward, circuit.area(kind), GEOMETRY[kind], numbers, command, data, flags=flags, stream_id=stream_id)
        circuit.send_area(kind)

    def _on_tick(self, due: float) -> None:
        following = max(due + self._tick_seconds, self._clock() - _LATE_TICKS * self._tick_seconds)
        self._tick = asyncio.get_running_loop().call_at(following, self._on_tick, following)
        if not self.circuit.has_room:
            return  # the link takes less than this rate: what is said is late, and nothing is lost
        self._emit(*(self._line.popleft() if self._line else _NOTHING))
        if self.has_room:
            self.changed.set()

    def _acknowledge(self) -> None:
        if self.paced:
            return  # the next tick says it
        if self._arrived - self._answered >= self._ack_messages:
            self._acknowledge_now()
        elif self._arrived > self._answered and self._answer is None:
            self._answer = asyncio.get_running_loop().call_later(_ACK_SECONDS, self._acknowledge_late)

    def _acknowledge_late(self) -> None:
        self._answer = None
        if self._arrived > self._answered:
            self._acknowledge_now()

    def _acknowledge_now(self) -> None:
        self.send(0, RelayCommand.ACK, b"")
