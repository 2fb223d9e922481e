"""Exit streams: a circuit's last relay connects to registered services, and to nothing else.

The allowed endpoints are those that the relay's operator hands it (registered stores and mailboxes), looked up again for every stream, so
a withdrawn endpoint is closed to new streams at once. Paper steps 5 and 8.
"""

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Callable, Coroutine
from typing import Any

from veilpod.core.endpoint import parse_endpoint, spell_endpoint
from veilpod.core.onion.geometry import CellClass
from veilpod.core.onion.messages import EndReason
from veilpod.errors import CircuitFailed, PeerUnavailable, ProtocolViolation, VeilpodError
from veilpod.net.mux import Mux
from veilpod.net.streams import Carrier, Hold, MuxStream

log = logging.getLogger(__name__)
_DRAIN_SECONDS = 30.0
Spawn = Callable[[Coroutine[Any, Any, None]], object]


class ExitPolicy:
    """Which endpoints may be reached from here."""

    def __init__(self) -> None:
        self._allowed: frozenset[str] = frozenset()

    def replace(self, endpoints: list[str]) -> None:
        """Take the operator's list of "ip:port". Raises ProtocolViolation("BadRelayEntry")."""
        self._allowed = frozenset(spell_endpoint(*parse_endpoint(endpoint)) for endpoint in endpoints)

    def allows(self, endpoint: str) -> bool:
        """Whether an endpoint, in its one spelling, is on the list."""
        return endpoint in self._allowed


class Exits:
    """The exit streams of one circuit."""

    def __init__(
        self,
        carrier: Carrier,
        cell_class: CellClass,
        *,
        policy: ExitPolicy,
        connect_seconds: float,
        spawn: Spawn,
        room: Callable[[], bool],
        hold: Hold,
    ) -> None:
        self.mux = Mux(carrier, cell_class, first_id=2, on_begin=self._begun, hold=hold)
        self._policy, self._connect_seconds, self._spawn, self._room = policy, connect_seconds, spawn, room

    def close(self) -> None:
        """The circuit is gone. What has arrived still goes to the service, for a bounded time."""
        self.mux.fail(CircuitFailed("the circuit is gone"))

    def _begun(self, stream: MuxStream) -> None:
        if not self._room():
            stream.end(EndReason.RESOURCE)
            return
        self._spawn(self._serve(stream))

    async def _serve(self, stream: MuxStream) -> None:
        try:
            endpoint = stream.label.decode("ascii")
            host, port = parse_endpoint(endpoint)
        except (UnicodeDecodeError, ProtocolViolation):
            stream.end(EndReason.PROTOCOL)
            return
        if not self._policy.allows(spell_endpoint(host, port)):
            stream.end(EndReason.POLICY)
            return
        try:
            async with asyncio.timeout(self._connect_seconds):
                connection = await _connect(host, port)
        except TimeoutError:
            stream.end(EndReason.TIMEOUT)
            return
        except OSError:
            stream.end(EndReason.UNREACHABLE)
            return
        stream.accept()
        await _pump(stream, connection)


async def _connect(host: str, port: int) -> socket.socket:
    connection = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(connection, (host, port))
    except BaseException:
        connection.close()
        raise
    return connection


async def _pump(stream: MuxStream, connection: socket.socket) -> None:
    """Carry bytes both ways until both have ended, or one has failed.

    Whatever else ends it (circuit, service, this relay) is a reset for both: never the clean end that they would take for the whole.
    """
    reason = EndReason.RESET
    try:
        async with asyncio.TaskGroup() as group:
            patience = group.create_task(_patience(stream))
            await _both(_inward(stream, connection), _outward(stream, connection))
            patience.cancel()
        reason = EndReason.DONE
    except* (OSError, VeilpodError):
        pass  # the other side is told below, if anybody is left
    finally:
        if reason is EndReason.RESET:
            _reset(connection)
        stream.end(reason)
        connection.close()


async def _both(*work: Coroutine[Any, Any, None]) -> None:
    async with asyncio.TaskGroup() as group:
        for each in work:
            group.create_task(each)


async def _inward(stream: MuxStream, connection: socket.socket) -> None:
    receive = asyncio.get_running_loop().sock_recv_into
    piece = memoryview(bytearray(stream.piece))
    listening = True
    while size := await receive(connection, piece):
        # A service that is still talking is heard out: its own unread bytes would go with a connection that we close on it.
        listening = listening and await _listened(stream.write(piece[:size]))
        await asyncio.sleep(0)  # a service that always has more is not the only one here
    if listening:
        await _listened(stream.write_eof())


async def _listened(saying: Coroutine[Any, Any, None]) -> bool:
    try:
        await saying
    except VeilpodError:
        return False
    return True


async def _outward(stream: MuxStream, connection: socket.socket) -> None:
    send = asyncio.get_running_loop().sock_sendall
    while data := await stream.read(stream.piece):
        await send(connection, data)
    with contextlib.suppress(OSError):  # it may have closed before
        connection.shutdown(socket.SHUT_WR)


async def _patience(stream: MuxStream) -> None:
    """Once the client is gone, the service has a while to take what is left and to close."""
    await stream.over()
    await asyncio.sleep(_DRAIN_SECONDS)
    raise PeerUnavailable("the service did not close after its client")


def _reset(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
