"""A meeting at a rendezvous: the two ends' own handshake, and the streams between them that not even the meeting relay can read.

The host leaves a cookie at a relay (ESTABLISH) and waits; the guest names it (JOIN) and the relay splices the two circuits, once. The
guest's onionskin goes through as MEET, the host's answer comes back as MET: an ntor handshake with the descriptor's service key. From
then on every message is FORWARD, sealed end to end. The session id is derived from that handshake, so it is bound to both sides'
ephemeral keys. Paper step 5.
"""

import asyncio
import logging

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from veilpod.core.ids import NodeId
from veilpod.core.onion import ntor
from veilpod.core.onion.geometry import GEOMETRY, LABEL_MAX
from veilpod.core.onion.layers import Direction, HopKeys, TamperedError, open_end_to_end, put_end_to_end
from veilpod.core.onion.messages import Create, Created, EndReason, Message, RelayCommand, kind_for, pack_join, parse_created
from veilpod.errors import CircuitFailed, InvalidInput, PeerUnavailable, ProtocolViolation, VeilpodError
from veilpod.net.circuit import Circuit
from veilpod.net.mux import Mux
from veilpod.net.streams import Hold, MuxStream

log = logging.getLogger(__name__)
_MEET_TIMEOUT = 30.0
_UNREAD = 64 << 20  # bytes of all its streams together that a session holds for its user
_UNACCEPTED = 64  # streams that the peer opened and nobody has taken yet


class OnionSession:
    """One end of a meeting; implements ports.Session and is the carrier of its own streams."""

    def __init__(self, circuit: Circuit, keys: HopKeys, *, guest: bool) -> None:
        self.id = keys.session_id
        self._circuit = circuit
        self._outward: Direction = keys.forward if guest else keys.backward
        self._inward: Direction = keys.backward if guest else keys.forward
        self._mux = Mux(self, circuit.cell_class, first_id=1 if guest else 2, on_begin=self._begun, hold=Hold(_UNREAD))
        self._accepted: asyncio.Queue[MuxStream | None] = asyncio.Queue()
        self._error: VeilpodError | None = None
        circuit.receiver = self
        if circuit.error is not None:
            self.on_failed(circuit.error)

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
        self._mux.close(self._circuit.close)

    # --- the carrier of the streams

    @property
    def data_max(self) -> int:
        """Bytes of data in one end-to-end message."""
        return GEOMETRY[self._circuit.cell_class].inner_data_max

    def send_message(self, command: RelayCommand, data: bytes | memoryview, *, flags: int = 0, stream_id: int = 0) -> None:
        """Send a message to the other end."""
        if self._circuit.error is None:
            kind = kind_for(command, self._circuit.cell_class)
            put_end_to_end(self._outward, self._circuit.area(kind), GEOMETRY[kind], command, data, flags=flags, stream_id=stream_id)
            self._circuit.send_area(kind)

    async def ready(self) -> None:
        """Wait while the link has too much queued."""
        await self._circuit.ready()

    # --- the circuit's calls

    def on_message(self, message: Message) -> None:
        """Open a FORWARD message."""
        if message.command is not RelayCommand.FORWARD:
            raise ProtocolViolation("BadMessage", f"{message.command.name} in a session", party="relay")
        try:
            inner = open_end_to_end(self._inward, message.data)
        except TamperedError as error:
            # The path's own layers opened, so it was the meeting relay or beyond: behind our last hop, where we know nobody.
            raise ProtocolViolation("SessionTampered", "an end-to-end message was altered beyond the meeting relay") from error
        self._mux.handle(inner)

    def on_failed(self, error: VeilpodError) -> None:
        """The circuit is gone."""
        self._error = error if isinstance(error, CircuitFailed) else CircuitFailed(f"the session is over: {error}")
        self._mux.fail(self._error)
        self._accepted.put_nowait(None)

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


class HostPoint:
    """A cookie that waits at a relay; implements ports.RendezvousPoint."""

    def __init__(self, circuit: Circuit, *, cookie: bytes, service: X25519PrivateKey, expires: int) -> None:
        self.relay: NodeId = circuit.path[-1].node_id
        self.cookie, self.expires = cookie, expires
        self.service_key = ntor.public_bytes(service)
        self._circuit, self._service = circuit, service
        self._met: asyncio.Future[OnionSession] = asyncio.get_running_loop().create_future()
        circuit.receiver = self
        if circuit.error is not None:
            self.on_failed(circuit.error)

    async def accept(self) -> OnionSession:
        return await asyncio.shield(self._met)

    async def close(self) -> None:
        self._circuit.close()

    def on_message(self, message: Message) -> None:
        """The guest came."""
        if message.command is not RelayCommand.MEET or self._met.done():
            raise ProtocolViolation("BadMessage", f"{message.command.name} at a waiting cookie", party="relay")
        skin = ntor.parse_onionskin(bytes(message.data))
        target = _target(self._circuit, self.cookie, self.service_key)
        if skin.identity_key != target.identity_key or skin.onion_key != target.onion_key:
            raise ProtocolViolation("BadHandshake", "a guest who looks for somebody else", party="guest")
        answer = ntor.respond(
            target, static=self._service, client=skin, ephemeral=X25519PrivateKey.generate(), encapsulated=skin.encapsulate()
        )
        session = OnionSession(self._circuit, HopKeys(answer.seed), guest=False)
        self._circuit.send_message(RelayCommand.MET, Created(reply=answer.reply).pack())
        self._met.set_result(session)

    def on_failed(self, error: VeilpodError) -> None:
        """The circuit broke while nobody had come."""
        if not self._met.done():
            self._met.set_exception(error if isinstance(error, CircuitFailed) else CircuitFailed(f"the rendezvous is over: {error}"))
            self._met.exception()


class _Guest:
    """Waits for the host's answer. The session takes over in the same breath: the host's first words may be in the next cell."""

    def __init__(self, circuit: Circuit, *, cookie: bytes, service_key: bytes) -> None:
        self._circuit = circuit
        self._target, self._ephemeral = _target(circuit, cookie, service_key), ntor.Ephemeral.generate()
        self.join = pack_join(cookie, ntor.onionskin(self._target, self._ephemeral))
        self.met: asyncio.Future[OnionSession] = asyncio.get_running_loop().create_future()
        circuit.receiver = self
        if circuit.error is not None:
            self.on_failed(circuit.error)

    def on_message(self, message: Message) -> None:
        """The host's answer."""
        if message.command is not RelayCommand.MET or self.met.done():
            raise ProtocolViolation("BadMessage", f"{message.command.name} before a meeting", party="relay")
        seed = ntor.finish(self._target, parse_created(bytes(message.data)).reply, ephemeral=self._ephemeral)
        self.met.set_result(OnionSession(self._circuit, HopKeys(seed), guest=True))

    def on_failed(self, error: VeilpodError) -> None:
        """Nobody came, or not who was expected."""
        if not self.met.done():
            self.met.set_exception(error)
            self.met.exception()


async def establish(circuit: Circuit, *, cookie: bytes, expires: int) -> HostPoint:
    """Leave a cookie at the circuit's last relay. Raises CircuitFailed."""
    point = HostPoint(circuit, cookie=cookie, service=X25519PrivateKey.generate(), expires=expires)
    await circuit.ask(RelayCommand.ESTABLISH, cookie, RelayCommand.ESTABLISHED, timeout=_MEET_TIMEOUT)
    return point


async def join(circuit: Circuit, *, cookie: bytes, service_key: bytes) -> OnionSession:
    """Meet who waits under a cookie at the circuit's last relay. Raises PeerUnavailable, CircuitFailed."""
    guest = _Guest(circuit, cookie=cookie, service_key=service_key)
    circuit.send_message(RelayCommand.JOIN, guest.join)
    try:
        async with asyncio.timeout(_MEET_TIMEOUT):
            return await guest.met
    except TimeoutError as error:
        raise PeerUnavailable("who waits at the meeting relay does not answer") from error


def _target(circuit: Circuit, cookie: bytes, service_key: bytes) -> ntor.Target:
    # The cookie stands where a relay's identity does: the handshake is good for this meeting only.
    context = Create(cell_class=circuit.cell_class, position=0, key_epoch=0, onionskin=b"").context
    return ntor.Target(identity_key=cookie.ljust(32, b"\0"), onion_key=service_key, context=context)
