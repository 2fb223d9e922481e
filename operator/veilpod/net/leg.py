"""One leg of a session: a circuit to the meeting relay, the keys that both ends agreed on over it, and what is known of its health.

A leg counts what it sent and what the other end says has arrived, so that a session can give its next message to the leg that is least
behind, and sees when one stalls: everything but a bare ACK is answered by an ACK within `_ACK_SECONDS`. Paper steps 5 and 7.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from veilpod.core.onion.geometry import GEOMETRY
from veilpod.core.onion.layers import Direction, HopKeys, TamperedError, open_end_to_end, put_end_to_end
from veilpod.core.onion.legs import MAX_NUMBER, Numbers, pack_link
from veilpod.core.onion.messages import ECHO, Message, RelayCommand, kind_for
from veilpod.errors import CircuitFailed, ProtocolViolation, VeilpodError
from veilpod.net.circuit import Circuit

_ACK_SECONDS = 0.05
_ACK_MESSAGES = 16
_KEEPALIVE_SECONDS = 10.0


class Owner(Protocol):
    """Who takes what a leg brings: a session, or a host that does not know yet whose leg it is."""

    def on_inner(self, leg: "Leg", numbers: Numbers, message: Message) -> None:
        """A message of the other end; the view is valid during the call. May raise ProtocolViolation: the leg is to be ended."""

    def on_leg_failed(self, leg: "Leg", error: VeilpodError) -> None: ...


class Leg:
    """One leg, from the end of its handshake on."""

    def __init__(self, circuit: Circuit, keys: HopKeys, *, guest: bool) -> None:
        self.circuit, self.keys = circuit, keys
        self.owner: Owner | None = None
        self.newest: Callable[[], int] = int  # what the session has received without a gap
        self.stalled = False
        self._outward: Direction = keys.forward if guest else keys.backward
        self._inward: Direction = keys.backward if guest else keys.forward
        self._sent = self._confirmed = self._arrived = self._answered = 0
        self._clock = asyncio.get_running_loop().time
        self._moved = self._spoke = self._clock()  # when the other end confirmed something, or had nothing to; when we sent
        self._answer: asyncio.TimerHandle | None = None
        circuit.receiver = self

    @property
    def outstanding(self) -> int:
        """Messages that are under way, as far as we know."""
        return self._sent - self._confirmed

    @property
    def idle(self) -> float:
        """Seconds for which something was under way and nothing was confirmed."""
        return self._clock() - self._moved if self.outstanding else 0.0

    def link(self, session: bytes, key: bytes) -> None:
        """Say first whose leg this is."""
        self.send(0, RelayCommand.LINK, pack_link(session, key=key, leg=self.keys.session_id))

    def send(self, number: int, command: RelayCommand, data: bytes | memoryview, *, flags: int = 0, stream_id: int = 0) -> None:
        """Send a message to the other end. Does nothing once the circuit is gone."""
        circuit = self.circuit
        if circuit.error is not None:
            return
        if command is not RelayCommand.ACK or flags & ECHO:
            if not self.outstanding:
                self._moved = self._clock()
            self._sent += 1
        if max(self._sent, self._arrived, number) >= MAX_NUMBER:
            circuit.fail(CircuitFailed("a leg has carried all it may"))
            return
        self._spoke, self._answered = self._clock(), self._arrived
        kind = kind_for(command, circuit.cell_class)
        numbers = Numbers(number=number, newest=self.newest(), arrived=self._arrived)
        put_end_to_end(self._outward, circuit.area(kind), GEOMETRY[kind], numbers, command, data, flags=flags, stream_id=stream_id)
        circuit.send_area(kind)

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
            numbers, inner = open_end_to_end(self._inward, message.data)
        except TamperedError as error:
            # The path's own layers opened, so it was the meeting relay or beyond: behind our last hop, where we know nobody.
            raise ProtocolViolation("SessionTampered", "an end-to-end message was altered beyond the meeting relay") from error
        if not self._confirmed <= numbers.arrived <= self._sent:
            raise ProtocolViolation("BadMessage", "more has arrived than was sent")
        if numbers.arrived > self._confirmed or not self.outstanding:
            self._moved, self.stalled = self._clock(), False
        self._confirmed = numbers.arrived
        if inner.command is not RelayCommand.ACK or inner.flags & ECHO:
            self._arrived += 1
        if self.owner is not None:
            self.owner.on_inner(self, numbers, inner)
        self._acknowledge()

    def on_failed(self, error: VeilpodError) -> None:
        """The circuit is gone."""
        if self._answer is not None:
            self._answer.cancel()
        if self.owner is not None:
            self.owner.on_leg_failed(self, error)

    # --- inside

    def _acknowledge(self) -> None:
        if self._arrived - self._answered >= _ACK_MESSAGES:
            self._acknowledge_now()
        elif self._arrived > self._answered and self._answer is None:
            self._answer = asyncio.get_running_loop().call_later(_ACK_SECONDS, self._acknowledge_late)

    def _acknowledge_late(self) -> None:
        self._answer = None
        if self._arrived > self._answered:
            self._acknowledge_now()

    def _acknowledge_now(self) -> None:
        self.send(0, RelayCommand.ACK, b"")
