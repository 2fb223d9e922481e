"""One peer link: a session between two sandboxes, the program's TCP connections through it, receipts and the operators' words (step 7).

The guest (a site) listens on 127.0.0.1 and opens a stream for each connection of its program; the host (the hub) dials its own program.
Bytes pass as they come; what is attested, and how much may be under way unpaid, is `accounting`. A link ends when both programs have
ended and every byte has its receipt.
"""

import asyncio
import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any

from veilpod.agent.accounting import BATCH_SECONDS, Parts, Received, Sent
from veilpod.core.fields import Fields
from veilpod.core.ids import ServerIndex
from veilpod.core.receipt import Receipt, parse_receipt
from veilpod.errors import CircuitFailed, ProtocolViolation, VeilpodError
from veilpod.net.framing import json_frame, read_json_frame
from veilpod.ports import Session, Stream

_PIECE = 64 << 10
_MESSAGE_LIMIT = 1 << 20
_DIAL_SECONDS = 60.0  # a hub's program may start later than a site's
_DIAL_PAUSE = 0.1
_GOODBYE_SECONDS = 15.0

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """Whom a link tells: the operator, about receipts, its peer's words, and that nothing more comes. `room` waits while it is away."""

    receipt: Callable[[ServerIndex, Receipt], object]
    channel: Callable[[ServerIndex, Any], object]
    flushed: Callable[[ServerIndex], object]
    room: Callable[[], Any]


class PeerLink:
    """A link whose two ends know who the other is. `run` returns when both have left, and raises when it breaks before."""

    def __init__(
        self,
        peer: ServerIndex,
        session: Session,
        channel: Stream,
        *,
        guest: bool,
        ports: tuple[int, ...],
        loopback: str,
        sent: Sent,
        received: Received,
        hooks: Hooks,
    ) -> None:
        self.peer = peer
        self._session, self._channel, self._guest, self._ports = session, channel, guest, ports
        self._loopback = loopback
        self.sent, self.received, self._hooks = sent, received, hooks
        self._write_turn = asyncio.Lock()
        self._receipt_turn = asyncio.Lock()
        self.flushed = False
        self._leaving = asyncio.Event()
        self._peer_left = False
        self._number = 0
        self._open: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._full = asyncio.Event()
        self._finishing = asyncio.Event()
        self._peer_sent: int | None = None
        self._moved = asyncio.Event()
        self._group: asyncio.TaskGroup

    async def run(self) -> None:
        """Carry everything until both ends have left. Raises CircuitFailed or ProtocolViolation when the link is lost."""
        lost: VeilpodError | None = None
        try:
            async with asyncio.TaskGroup() as self._group:
                background = [
                    self._group.create_task(self._hear()),
                    self._group.create_task(self._attest()),
                    self._group.create_task(self._streams()),
                ]
                await self._flush()
                await self._say_goodbye()
                for task in background:
                    task.cancel()
        except* (VeilpodError, OSError, EOFError) as group:
            lost = _first(group)
        finally:
            for writer in self._writers:
                writer.transport.abort()
        if lost is not None and not self._leaving.is_set():  # afterwards, a link that breaks has nothing more to lose
            raise lost

    def finish(self) -> None:
        """Our program has ended: nothing more will be sent once its connections are drained."""
        self._finishing.set()

    def leave(self) -> None:
        """Our operator has all it needs: say goodbye once the link is flushed."""
        self._leaving.set()

    async def tell(self, payload: Any) -> None:
        """Carry our operator's words to the peer's."""
        await self._say({"channel": payload})

    # --- the program's connections

    async def _streams(self) -> None:
        if not self._guest:
            while True:
                label, stream = await self._session.accept_stream()
                port, number = _parse_label(label, self._ports)
                self._track(self._serve_host(port, number, stream))
        servers = []
        try:
            for port in self._ports:
                server = await asyncio.start_server(functools.partial(self._accept, port), self._loopback, port)
                servers.append(server)
            await self._finishing.wait()
        finally:
            for server in servers:
                server.close()
        await asyncio.Event().wait()  # ended by `run`

    def _accept(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._number += 1
        self._track(self._serve_guest(port, self._number, reader, writer))

    async def _serve_guest(self, port: int, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = await self._session.open_stream(f"tcp/{port}/{number}")
        await self._pump_both(number, stream, reader, writer)

    async def _serve_host(self, port: int, number: int, stream: Stream) -> None:
        connected = await self._dial(port)
        if connected is None:
            await self._inward(number, stream, None)
            await stream.close()
            return
        await self._pump_both(number, stream, *connected)

    async def _dial(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DIAL_SECONDS):
                while not self._finishing.is_set():
                    try:
                        return await asyncio.open_connection(self._loopback, port)
                    except OSError:
                        await asyncio.sleep(_DIAL_PAUSE)
        return None

    async def _pump_both(self, number: int, stream: Stream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._outward(number, stream, reader))
                group.create_task(self._inward(number, stream, writer))
        finally:
            self._writers.discard(writer)
            writer.transport.abort()
        await stream.close()

    async def _outward(self, number: int, stream: Stream, reader: asyncio.StreamReader) -> None:
        while data := await _read_local(reader):
            await self.sent.reserve(len(data))
            self.sent.add(number, data)
            await stream.write(data)
        await stream.write_eof()

    async def _inward(self, number: int, stream: Stream, writer: asyncio.StreamWriter | None) -> None:
        while data := await stream.read(_PIECE):
            # What arrived is owed, also when the program does not take it any more.
            if self.received.add(number, data):
                self._full.set()
            if writer is not None and not await _write_local(writer, data):
                writer = None
        if writer is not None:
            with contextlib.suppress(OSError):
                writer.write_eof()

    def _track(self, work: Any) -> None:
        task = self._group.create_task(work)
        self._open.add(task)
        task.add_done_callback(self._drained)

    def _drained(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        self._moved.set()

    # --- receipts and words

    async def _attest(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BATCH_SECONDS):
                    await self._full.wait()
            self._full.clear()
            await self._send_receipt()

    async def _send_receipt(self) -> None:
        async with self._receipt_turn:  # receipts are a chain: they are sent in the order in which they were made
            attested = self.received.attest()
            if attested is None:
                return
            receipt, parts = attested
            await self._hooks.room()
            self._hooks.receipt(self.peer, receipt)
            await self._say({"receipt": receipt.document(), "parts": [list(part) for part in parts]})
            self._moved.set()

    async def _hear(self) -> None:
        while True:
            message = await read_json_frame(self._channel, limit=_MESSAGE_LIMIT, party="peer")
            if "receipt" in message:
                receipt = parse_receipt(message["receipt"], party="peer")
                self.sent.accept(receipt, _parse_parts(message.get("parts")))
                await self._hooks.room()
                self._hooks.receipt(self.peer, receipt)
            elif "end" in message:
                self._peer_sent = Fields(message["end"], what="end", party="peer").integer("sent")
            elif "bye" in message:
                self._peer_left = True
            elif "channel" in message:
                await self._hooks.room()
                self._hooks.channel(self.peer, message["channel"])
            else:
                raise ProtocolViolation("BadMessage", "a word that peers do not know", party="peer")
            self._moved.set()

    async def _flush(self) -> None:
        await self._finishing.wait()
        # Connections that our program left half open end with it; those of the peer's program end when it does.
        await self._until(lambda: not self._open)
        await self._say({"end": {"sent": self.sent.total}})
        await self._until(lambda: self._peer_sent is not None and self.received.total >= self._peer_sent)
        await self._send_receipt()
        await self._until(lambda: self.sent.attested == self.sent.total and self.received.attested == self._peer_sent)
        if self.received.total != self._peer_sent:
            raise ProtocolViolation("PeerLost", "the peer counts its bytes otherwise", party="peer")
        self.flushed = True
        self._hooks.flushed(self.peer)

    async def _say_goodbye(self) -> None:
        # The operators still have to agree on the final state. And who leaves first must not close the session under the other's last
        # words.
        await self._leaving.wait()
        await self._say({"bye": 1})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await self._until(lambda: self._peer_left)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._moved.clear()
            await self._moved.wait()

    async def _say(self, message: dict[str, Any]) -> None:
        async with self._write_turn:
            await self._channel.write(json_frame(message, limit=_MESSAGE_LIMIT))


async def _read_local(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(_PIECE)
    except OSError:  # the program reset its connection: the same as its end
        return b""


async def _write_local(writer: asyncio.StreamWriter, data: bytes) -> bool:
    try:
        writer.write(data)
        await writer.drain()
    except OSError:
        return False
    return True


def _parse_label(label: str, ports: tuple[int, ...]) -> tuple[int, int]:
    parts = label.split("/")
    if len(parts) == 3 and parts[0] == "tcp" and all(part.isascii() and part.isdecimal() and len(part) < 10 for part in parts[1:]):
        port, number = int(parts[1]), int(parts[2])
        if port in ports and number > 0:
            return port, number
    raise ProtocolViolation("BadLabel", "a peer opens streams for the ports of its topology only", party="peer")


def _parse_parts(value: Any) -> Parts:
    if not isinstance(value, list) or not all(
        isinstance(part, list) and len(part) == 2 and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in part)
        for part in value
    ):
        raise ProtocolViolation("BadReceipt", "parts are pairs of stream number and bytes", party="peer")
    return [(part[0], part[1]) for part in value]


def _first(group: BaseExceptionGroup[Exception]) -> VeilpodError:
    error = group.exceptions[0]
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, VeilpodError) else CircuitFailed(f"the peer link broke: {type(error).__name__}")
