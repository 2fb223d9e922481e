"""The client's side of a store's upload port: one exchange per connection (docs/protocol/task.md, "Upload port of a store")."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from veilpod.errors import PeerUnavailable, ProtocolViolation, Refused
from veilpod.net.framing import json_frame, read_json_frame

_REQUEST_LIMIT = 4096
_ANSWER_LIMIT = 1 << 20
_STEP_SECONDS = 120.0


class Exchange:
    """An open connection. Every step is bounded in time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request and read its answer. Raises Refused with the store's code, PeerUnavailable when it hung up."""
        await self.send(json_frame(dict(request), limit=_REQUEST_LIMIT))
        return await self.answer()

    async def send(self, data: bytes) -> None:
        """Send bare bytes."""
        try:
            self._writer.write(data)
            async with asyncio.timeout(_STEP_SECONDS):
                await self._writer.drain()
        except (OSError, TimeoutError) as error:
            raise PeerUnavailable("the store hung up") from error

    async def answer(self) -> dict[str, Any]:
        """Read an answer."""
        try:
            async with asyncio.timeout(_STEP_SECONDS):
                answer = await read_json_frame(self._reader, limit=_ANSWER_LIMIT, party="store")
        except (EOFError, OSError, TimeoutError) as error:
            raise PeerUnavailable("the store hung up without an answer") from error
        if isinstance(ok := answer.get("ok"), dict):
            return ok
        failure = answer.get("error")
        if not isinstance(failure, dict):
            raise ProtocolViolation("BadAnswer", "the store's answer is neither ok nor error", party="store")
        raise Refused(str(failure.get("code", "Refused")), str(failure.get("message", "")))

    async def receive(self, size: int) -> bytes:
        """Read exactly `size` bare bytes."""
        data = bytearray()
        while len(data) < size:
            try:
                async with asyncio.timeout(_STEP_SECONDS):
                    piece = await self._reader.read(min(size - len(data), 1 << 20))
            except (OSError, TimeoutError) as error:
                raise PeerUnavailable("the store hung up") from error
            if not piece:
                raise PeerUnavailable(f"the store hung up {size - len(data)} bytes early")
            data += piece
        return bytes(data)


@contextlib.asynccontextmanager
async def opened(port: int) -> AsyncIterator[Exchange]:
    """Connect to a forwarded upload port. Raises PeerUnavailable."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError as error:
        raise PeerUnavailable("the port-forward does not answer") from error
    try:
        yield Exchange(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
