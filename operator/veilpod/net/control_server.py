"""The server's end of the control stream: accepts one operator, runs its commands, keeps events until they are acknowledged.

It does not know what commands mean. Unauthenticated peers get a TLS alert and nothing else; they cannot make it hold more than a handshake.
"""

import asyncio
import collections
import contextlib
import dataclasses
import json
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from veilpod.core.canonical import canonical
from veilpod.errors import ProtocolViolation, Refused, Terminal, Transient
from veilpod.net import control_tls
from veilpod.net.framing import frame, json_frame, read_json_frame

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]

FRAME_LIMIT = 4 << 20
EVENT_LIMIT = 4096  # unacknowledged events
EVENT_BYTES_LIMIT = 16 << 20  # their bytes
_HANDSHAKE_SECONDS = 10.0
_CONNECTIONS = 16  # at once, strangers in their handshakes included
_COMMANDS = 64  # running at once
_REMEMBERED = 128  # answers kept for a client that repeats itself
_REMEMBERED_BYTES = 64 << 10  # larger answers are read again: commands are idempotent

log = logging.getLogger(__name__)


@dataclasses.dataclass(slots=True, kw_only=True, eq=False)
class _Connection:
    writer: asyncio.StreamWriter
    wake: asyncio.Event
    sent: int | None = None  # sequence of the last event sent; None before `resume`


class ControlServer:
    """One server. `serve` runs it; `emit` may be called at any time, also while nobody is connected."""

    def __init__(
        self,
        operator_cert: bytes,
        handlers: Mapping[str, Handler],
        *,
        key: Ed25519PrivateKey | None = None,
        command_timeout: float = 60.0,
    ) -> None:
        self._operator_cert = operator_cert
        self._handlers = handlers
        key = key or Ed25519PrivateKey.generate()
        self.tls_key = control_tls.tls_key_of(control_tls.control_certificate(key))
        self._context = control_tls.server_context(key, operator_cert)
        self._command_timeout = command_timeout
        self._events: collections.deque[tuple[int, bytes]] = collections.deque()
        self._event_bytes = 0
        self._sequence = 0
        self._room = asyncio.Event()
        self._room.set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._open = 0
        self._current: _Connection | None = None
        self._answers: collections.OrderedDict[int, asyncio.Task[bytes]] = collections.OrderedDict()
        self._running = asyncio.Semaphore(_COMMANDS)
        self._group: asyncio.TaskGroup
        self.listening = asyncio.Event()
        self.port = 0  # the real one once `listening`

    def emit(self, event: str, data: Mapping[str, Any]) -> int:
        """Queue an event for the operator.

        Returns its sequence number. Raises Refused("EventMemoryFull"): who can wait awaits `room` first.
        """
        body = frame(canonical({"seq": self._sequence + 1, "event": event, "data": dict(data)}), limit=FRAME_LIMIT)
        if len(self._events) >= EVENT_LIMIT or self._event_bytes + len(body) > EVENT_BYTES_LIMIT:
            raise Refused("EventMemoryFull", "the operator has not acknowledged events for too long")
        self._sequence += 1
        self._events.append((self._sequence, body))
        self._event_bytes += len(body)
        self._empty.clear()
        if len(self._events) >= EVENT_LIMIT // 2 or self._event_bytes >= EVENT_BYTES_LIMIT // 2:
            self._room.clear()
        if self._current is not None:
            self._current.wake.set()
        return self._sequence

    async def room(self) -> None:
        """Wait until the event memory is less than half full: back-pressure for whoever makes many events."""
        await self._room.wait()

    @property
    def unacknowledged(self) -> int:
        """How many events wait for the operator's `ack`."""
        return len(self._events)

    async def flushed(self) -> None:
        """Wait until every event was acknowledged: the last thing before a process ends."""
        await self._empty.wait()

    async def serve(self, host: str, port: int) -> None:
        """Serve until cancelled. Port 0 takes any; `port` tells it once `listening` is set."""
        async with asyncio.TaskGroup() as self._group:
            server = await asyncio.start_server(
                self._accept,
                host,
                port,
                ssl=self._context,
                ssl_handshake_timeout=_HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=1.0,
                backlog=_CONNECTIONS,
            )
            async with server:
                self.port = server.sockets[0].getsockname()[1]
                self.listening.set()
                await server.serve_forever()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Called after the handshake, so OpenSSL has found the operator's certificate to be the only anchor; that it is the very
        # certificate and not one that its key signed is checked here.
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        if tls.getpeercert(binary_form=True) != self._operator_cert or self._open >= _CONNECTIONS:
            log.warning("control.refused")
            writer.transport.abort()
            return
        self._open += 1
        self._group.create_task(self._converse(reader, _Connection(writer=writer, wake=asyncio.Event())))

    async def _converse(self, reader: asyncio.StreamReader, connection: _Connection) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send_events(connection))
                await self._read_commands(reader, connection)
        except* (OSError, EOFError):
            log.info("control.disconnected")
        except* ProtocolViolation as group_error:
            log.warning("control.violation", extra={"reason": _first(group_error).reason})
        finally:
            self._open -= 1
            if self._current is connection:
                self._current = None
            connection.writer.transport.abort()
            with contextlib.suppress(OSError):
                await connection.writer.wait_closed()

    async def _read_commands(self, reader: asyncio.StreamReader, connection: _Connection) -> None:
        while True:
            message = await read_json_frame(reader, limit=FRAME_LIMIT, party="operator")
            number, name, args = message.get("id"), message.get("cmd"), message.get("args")
            if not isinstance(number, int) or isinstance(number, bool) or not isinstance(name, str) or not isinstance(args, dict):
                raise ProtocolViolation("BadCommand", "a command is {id, cmd, args}", party="operator")
            if name == "resume":
                self._resume(connection, number, args)
            elif connection.sent is None:
                raise ProtocolViolation("ResumeFirst", "the first command is resume", party="operator")
            elif name == "ack":
                self._acknowledge(args)
                connection.writer.write(json_frame({"id": number, "ok": {}}, limit=FRAME_LIMIT))
            else:
                await self._running.acquire()
                self._group.create_task(self._reply(connection, self._start(number, name, args)))

    def _resume(self, connection: _Connection, number: int, args: dict[str, Any]) -> None:
        after = _natural(args.get("after"))
        if after > self._sequence:
            raise ProtocolViolation("ResumeAhead", "resume names an event that was never sent", party="operator")
        if self._current is not None and self._current is not connection:
            # The newest connection is the operator's; the older one is what a broken network left behind.
            self._current.writer.transport.abort()
        self._current = connection
        connection.sent = after
        connection.writer.write(json_frame({"id": number, "ok": {"last": self._sequence}}, limit=FRAME_LIMIT))
        connection.wake.set()

    def _acknowledge(self, args: dict[str, Any]) -> None:
        up_to = _natural(args.get("upTo"))
        while self._events and self._events[0][0] <= up_to:
            _, body = self._events.popleft()
            self._event_bytes -= len(body)
        if len(self._events) < EVENT_LIMIT // 2 and self._event_bytes < EVENT_BYTES_LIMIT // 2:
            self._room.set()
        if not self._events:
            self._empty.set()

    async def _send_events(self, connection: _Connection) -> None:
        while True:
            await connection.wake.wait()
            connection.wake.clear()
            if connection.sent is None:
                continue
            for sequence, body in [event for event in self._events if event[0] > connection.sent]:
                connection.writer.write(body)
                connection.sent = sequence
                await connection.writer.drain()

    def _start(self, number: int, name: str, args: dict[str, Any]) -> asyncio.Task[bytes]:
        known = self._answers.get(number)
        if known is not None:
            return known
        # The command belongs to the server, not to the connection: a broken connection must not leave it half done.
        task = self._group.create_task(self._run(number, name, args))
        self._answers[number] = task
        for old in [n for n, t in self._answers.items() if t.done()][: max(0, len(self._answers) - _REMEMBERED)]:
            del self._answers[old]
        return task

    async def _run(self, number: int, name: str, args: dict[str, Any]) -> bytes:
        try:
            answer = json_frame({"id": number, "ok": await self._call(name, args)}, limit=FRAME_LIMIT)
        except Terminal as error:
            answer = _failure(number, error.reason, str(error))
        except (Transient, TimeoutError) as error:
            answer = _failure(number, "Unavailable", str(error) or "timed out")
        except Exception as error:  # noqa: BLE001 - a defect of ours must not take the process with it; its text may hold data
            log.error("control.defect", extra={"command": name, "error": type(error).__name__})
            answer = _failure(number, "Internal", "the command failed for a reason that is our defect")
        if len(answer) > _REMEMBERED_BYTES:
            self._answers.pop(number, None)
        return answer

    async def _call(self, name: str, args: dict[str, Any]) -> dict[str, Any]:
        handler = self._handlers.get(name)
        if handler is None:
            raise ProtocolViolation("UnknownCommand", f"no command {name[:40]!r} here", party="operator")
        async with asyncio.timeout(self._command_timeout):
            return await handler(args)

    async def _reply(self, connection: _Connection, task: asyncio.Task[bytes]) -> None:
        try:
            answer = await asyncio.shield(task)
            if not connection.writer.is_closing():
                connection.writer.write(answer)
                await connection.writer.drain()
        except OSError:
            pass  # the client asks again under the same id
        finally:
            self._running.release()


def _failure(number: int, code: str, message: str) -> bytes:
    return json_frame({"id": number, "error": {"code": code, "message": message[:1000]}}, limit=FRAME_LIMIT)


def _natural(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ProtocolViolation("BadCommand", f"not a sequence number: {json.dumps(value)[:40]}", party="operator")
    return value


def _first(group: BaseExceptionGroup[ProtocolViolation]) -> ProtocolViolation:
    error = group.exceptions[0]
    return error if isinstance(error, ProtocolViolation) else _first(error)
