"""The agent's line to the requester's mailbox: sealed requests through a circuit, repeated until they are answered or time is up.

Every operation of the mailbox is a first write or a read, so repeating one whose answer was lost is harmless. Notes are best effort: they
are sent by a task of their own, in order, and nothing waits for them.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

from veilpod.core.agent_messages import MailboxEntry
from veilpod.core.meeting import Note
from veilpod.errors import PeerUnavailable, ProtocolViolation, Refused, Transient
from veilpod.net import sealed_request
from veilpod.net.pauses import pauses
from veilpod.ports import Onion, Stream

_ATTEMPT_SECONDS = 30.0
_BACKOFF = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_NOTE_SECONDS = 300.0
_NOTES = 64

log = logging.getLogger(__name__)


class MailboxClient:
    """One circuit at a time, one request at a time."""

    def __init__(self, onion: Onion, entry: MailboxEntry) -> None:
        self._onion, self._entry = onion, entry
        self._stream: Stream | None = None
        self._turn = asyncio.Lock()

    async def ask(self, op: str, args: dict[str, Any], *, seconds: float) -> dict[str, Any]:
        """Ask until there is an answer. Raises Refused with the mailbox's code, PeerUnavailable after `seconds`."""
        waits = pauses(*_BACKOFF)
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        async with self._turn:
                            return await self._once(op, args)
                    except (Transient, ProtocolViolation, OSError, EOFError, TimeoutError) as error:
                        log.info("mailbox.retry", extra={"op": op, "reason": type(error).__name__})
                    await asyncio.sleep(next(waits))
        except TimeoutError as error:
            raise PeerUnavailable(f"the mailbox did not answer {op} in time") from error

    async def close(self) -> None:
        """Drop the circuit."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            with contextlib.suppress(Transient, OSError):
                await stream.close()

    async def _once(self, op: str, args: dict[str, Any]) -> dict[str, Any]:
        if self._stream is None:
            async with asyncio.timeout(_ATTEMPT_SECONDS):
                self._stream = await self._onion.open(self._entry.host, self._entry.port)
        try:
            return await sealed_request.request(self._stream, self._entry.onion_key, op, timeout=_ATTEMPT_SECONDS, **args)
        except Refused:
            raise
        except BaseException:
            await self.close()
            raise


class Notes:
    """Sends notes one after the other. `put` never waits; when too many wait, new ones are dropped and said so."""

    def __init__(self, *, make: Callable[[str, str, int], Note]) -> None:
        self._make = make
        self._waiting: asyncio.Queue[Note] = asyncio.Queue(maxsize=_NOTES)
        self._idle = asyncio.Event()
        self._idle.set()

    def put(self, event: str, code: str = "") -> None:
        """Sign a note now, send it when there is a way."""
        try:
            self._waiting.put_nowait(self._make(event, code, int(time.time())))
            self._idle.clear()
        except asyncio.QueueFull:
            log.warning("note.dropped", extra={"note": event})

    async def send(self, client: MailboxClient) -> None:
        """Send until cancelled."""
        while True:
            note = await self._waiting.get()
            try:
                await client.ask("put-note", note.document(), seconds=_NOTE_SECONDS)
            except (Refused, PeerUnavailable) as error:
                log.info("note.lost", extra={"note": note.event, "reason": type(error).__name__})
            if self._waiting.empty():
                self._idle.set()

    async def sent(self, *, seconds: float) -> None:
        """Wait a little for what is still to send."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()
