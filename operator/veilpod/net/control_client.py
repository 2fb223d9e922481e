"""The operator's end of the control stream: one long-lived link that reconnects by itself and repeats what was not answered.

The server's key is pinned: to the one given, or to the first one seen (the pod IP came from the API server for that pod UID; the signed
statement then fixes it). Another key later ends the link for good.
"""

import asyncio
import collections
import contextlib
import logging
import secrets
import ssl
from collections.abc import AsyncIterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from veilpod.errors import PeerUnavailable, ProtocolViolation, Refused, Terminal
from veilpod.net import control_tls
from veilpod.net.control_server import EVENT_LIMIT, FRAME_LIMIT
from veilpod.net.framing import json_frame, read_json_frame

_DIAL_SECONDS = 5.0
_BACKOFF = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_FIRST_PAUSE = (0.1, 1.0)  # until a server has answered once, who is dialled while it starts: a tenth of the wait so far, in these bounds

log = logging.getLogger(__name__)


async def connect(
    host: str, port: int, *, key: Ed25519PrivateKey, pinned_tls_key: bytes | None = None, timeout: float = 10.0, call_timeout: float = 30.0
) -> "Link":
    """Connect and resume. Raises PeerUnavailable when nobody answers in `timeout` seconds, Refused when the wrong server does."""
    link = Link(host, port, key=key, pinned_tls_key=pinned_tls_key, call_timeout=call_timeout)
    try:
        await link.wait_connected(timeout)
    except BaseException:
        await link.close()
        raise
    return link


class Link:
    """A ports.ControlLink. Made by `connect`; it owns one task, which `close` ends."""

    def __init__(self, host: str, port: int, *, key: Ed25519PrivateKey, pinned_tls_key: bytes | None, call_timeout: float) -> None:
        self._host, self._port = host, port
        self._context = control_tls.client_context(key)
        self._pinned = pinned_tls_key
        self._call_timeout = call_timeout
        # Ids of another link to the same server must not meet ours in its memory of answers.
        self._number = secrets.randbits(48) << 12
        self._pending: dict[int, tuple[bytes, asyncio.Future[dict[str, Any]]]] = {}
        self._events: collections.deque[tuple[int, str, dict[str, Any]]] = collections.deque()
        self._received = 0
        self._changed = asyncio.Event()
        self._connected = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None
        self._dead: Terminal | None = None
        self._met, self._since = False, asyncio.get_running_loop().time()
        self._task = asyncio.create_task(self._keep_connected())

    @property
    def tls_key(self) -> bytes:
        """SHA-256 of the server's SPKI: the pin, learnt from the first connection when none was given."""
        if self._pinned is None:
            raise PeerUnavailable("the control stream was never connected")
        return self._pinned

    async def wait_connected(self, timeout: float) -> None:
        """Wait until the link is up. Raises PeerUnavailable after `timeout` seconds, Refused for the wrong server."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._connected.wait()
        if self._dead is not None:
            raise self._dead
        if not self._connected.is_set():
            raise PeerUnavailable("the control stream does not answer")

    async def call(self, command: str, **args: Any) -> dict[str, Any]:
        if self._dead is not None:
            raise self._dead
        self._number += 1
        number = self._number
        body = json_frame({"id": number, "cmd": command, "args": args}, limit=FRAME_LIMIT)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._pending[number] = (body, answer)
        try:
            async with asyncio.timeout(self._call_timeout):
                if self._writer is not None:
                    with contextlib.suppress(OSError):  # sent again after the reconnection
                        self._writer.write(body)
                        await self._writer.drain()
                return await answer
        except TimeoutError as error:
            raise PeerUnavailable(f"no answer to {command} in {self._call_timeout:.0f} s") from error
        finally:
            self._pending.pop(number, None)

    async def events(self) -> AsyncIterator[tuple[int, str, dict[str, Any]]]:
        """Every event in order, for one consumer. Ends when the link is closed, raises Refused when the server is no longer the same."""
        while True:
            while self._events:
                yield self._events.popleft()
            if self._dead is not None:
                raise self._dead
            if self._task.done():
                return
            self._changed.clear()
            await self._changed.wait()

    async def acknowledge(self, sequence: int) -> None:
        await self.call("ack", upTo=sequence)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._fail_pending(PeerUnavailable("the control stream was closed"))
        self._changed.set()

    async def _keep_connected(self) -> None:
        attempt = 0
        while True:
            try:
                await self._session()
            except Refused as error:
                self._dead = error
                self._connected.set()
                self._changed.set()
                self._fail_pending(error)
                log.warning("control.refused", extra={"reason": error.reason})
                return
            except (OSError, EOFError, TimeoutError, ssl.SSLError, ProtocolViolation) as error:
                attempt = 0 if self._connected.is_set() else attempt + 1
                log.log(logging.INFO if self._met else logging.DEBUG, "control.disconnected", extra={"reason": type(error).__name__})
            finally:
                if self._dead is None:
                    self._connected.clear()
                self._writer = None
            await asyncio.sleep(_BACKOFF[min(attempt, len(_BACKOFF) - 1)] if self._met else self._first_pause())

    def _first_pause(self) -> float:
        least, most = _FIRST_PAUSE
        return min(max((asyncio.get_running_loop().time() - self._since) / 10, least), most)

    async def _session(self) -> None:
        async with asyncio.timeout(_DIAL_SECONDS):
            reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._context, ssl_shutdown_timeout=1.0)
        try:
            self._check_server(writer)
            await self._resume(reader, writer)
            while True:
                self._take(await read_json_frame(reader, limit=FRAME_LIMIT, party="agent"))
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError, TimeoutError):
                await writer.wait_closed()

    def _check_server(self, writer: asyncio.StreamWriter) -> None:
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        certificate = tls.getpeercert(binary_form=True)
        seen = control_tls.tls_key_of(certificate) if certificate else b""
        if self._pinned is None:
            self._pinned = seen
        if seen != self._pinned:
            raise Refused("ControlKeyChanged", "the process behind the control stream is not the one that was known; look its pod up again")

    async def _resume(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(_DIAL_SECONDS):
            writer.write(json_frame({"id": 0, "cmd": "resume", "args": {"after": self._received}}, limit=FRAME_LIMIT))
            await writer.drain()
            try:
                answer = await read_json_frame(reader, limit=FRAME_LIMIT, party="agent")
            except ssl.SSLError as error:
                # In TLS 1.3 a client learns only now what the server thinks of its certificate.
                if "ALERT" in (error.reason or ""):
                    raise Refused("ControlRefused", "the server does not accept this operator's certificate") from error
                raise
        if answer.get("id") != 0 or "ok" not in answer:
            raise ProtocolViolation("BadResume", "resume was not answered", party="agent")
        self._writer, self._met = writer, True
        for body, _ in self._pending.values():
            writer.write(body)
        self._connected.set()
        await writer.drain()

    def _take(self, message: dict[str, Any]) -> None:
        if "seq" in message:
            self._take_event(message)
            return
        number = message.get("id")
        _, answer = self._pending.get(number, (b"", None)) if isinstance(number, int) else (b"", None)
        if answer is None or answer.done():
            return  # an answer to a question that nobody asks any more
        ok, error = message.get("ok"), message.get("error")
        if isinstance(ok, dict):
            answer.set_result(ok)
        elif isinstance(error, dict) and isinstance(error.get("code"), str):
            text = str(error.get("message", ""))
            answer.set_exception(PeerUnavailable(text) if error["code"] == "Unavailable" else Refused(error["code"], text))
        else:
            raise ProtocolViolation("BadAnswer", "an answer is {id, ok} or {id, error}", party="agent")

    def _take_event(self, message: dict[str, Any]) -> None:
        sequence, name, data = message.get("seq"), message.get("event"), message.get("data")
        if not isinstance(sequence, int) or not isinstance(name, str) or not isinstance(data, dict):
            raise ProtocolViolation("BadEvent", "an event is {seq, event, data}", party="agent")
        if sequence <= self._received:
            return  # sent again, and seen
        if self._received and sequence != self._received + 1:
            raise ProtocolViolation("EventGap", "the server forgot events that were not acknowledged", party="agent")
        if len(self._events) >= 2 * EVENT_LIMIT:
            raise ProtocolViolation("TooManyEvents", "more events than an honest server keeps", party="agent")
        self._received = sequence
        self._events.append((sequence, name, data))
        self._changed.set()

    def _fail_pending(self, error: Exception) -> None:
        for _, answer in self._pending.values():
            if not answer.done():
                answer.set_exception(error)
