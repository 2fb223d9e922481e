"""The port for people: data sets in, sealed results out, over `kubectl port-forward` in one's own namespace.

One exchange per connection, frames as everywhere (u32 length, canonical JSON), bulk bytes bare after them:

    {"put":"dataset","digest":"0x32","size":n}  -> {"ok":{"have":false}}, then n bytes -> {"ok":{"stored":true}}; have:true ends it at once
    {"get":"result","taskId":"0x32"}            -> {"ok":{"size":n,"digest":"0x32","signature":"0x65","author":"0x65"}} and n bytes
    {"get":"offers","taskId":"0x32"}            -> {"ok":{"offers":[…],"confirmations":[…]}}: statements, and who confirmed the task key
    {"get":"evidence","taskId":"0x32","server":i}
                                                -> {"ok":{"evidence":…}}: what convicts the server of breaking the key ceremony, or null
    anything refused                            -> {"error":{"code","message"}}

There is no login: what goes in is ciphertext that the operator announced by digest, what comes out is sealed to its recipient.
NetworkPolicy keeps other pods away, and the API server's RBAC decides who may forward a port.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from veilpod.core.canonical import from_hex
from veilpod.core.fields import Fields
from veilpod.core.ids import ServerIndex, TaskId
from veilpod.core.meeting import MAX_SERVERS
from veilpod.errors import InvalidInput, ProtocolViolation, Terminal
from veilpod.net.framing import json_frame, read_json_frame
from veilpod.store.blobs import Blobs
from veilpod.store.mailbox import Mailbox

_REQUEST_LIMIT = 4096
_ANSWER_LIMIT = 1 << 20
_REQUEST_SECONDS = 30.0
_SEND_SECONDS = 120.0  # for one piece
_CONNECTIONS = 32

log = logging.getLogger(__name__)


class UploadServer:
    """Serves one exchange per connection. `stored(digest)` is told about each new object."""

    def __init__(self, blobs: Blobs, mailbox: Mailbox, *, stored: Callable[[bytes], object]) -> None:
        self._blobs = blobs
        self._stored = stored
        self._mailbox = mailbox
        self._open = 0
        self._group: asyncio.TaskGroup
        self.listening = asyncio.Event()
        self.port = 0  # the real one once `listening`

    async def serve(self, host: str, port: int) -> None:
        """Serve until cancelled. Port 0 takes any."""
        async with asyncio.TaskGroup() as self._group:
            server = await asyncio.start_server(self._accept, host, port, backlog=_CONNECTIONS)
            async with server:
                self.port = server.sockets[0].getsockname()[1]
                self.listening.set()
                await server.serve_forever()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open >= _CONNECTIONS:
            writer.transport.abort()
            return
        self._open += 1
        self._group.create_task(self._exchange(reader, writer))

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            try:
                async with asyncio.timeout(_REQUEST_SECONDS):
                    request = await read_json_frame(reader, limit=_REQUEST_LIMIT, party="uploader")
                await self._serve(request, reader, writer)
            except Terminal as error:
                log.info("upload.refused", extra={"reason": error.reason})
                await _send(writer, {"error": {"code": error.reason, "message": str(error)}})
            writer.write_eof()
            await writer.drain()
        except (OSError, EOFError, TimeoutError):
            log.info("upload.disconnected")
        finally:
            self._open -= 1
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(_SEND_SECONDS):
                    await writer.wait_closed()

    async def _serve(self, request: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if request.get("put") == "dataset":
            await self._put(request, reader, writer)
        elif request.get("get") == "result":
            await self._get(request, writer)
        elif request.get("get") == "offers":
            task = TaskId(from_hex(request.get("taskId", ""), 32))
            offers = [offer.document() for offer in self._mailbox.offers(task)]
            confirmations = [word.document() for word in self._mailbox.ceremony(task).confirmations]
            await _send(writer, {"ok": {"offers": offers, "confirmations": confirmations}})
        elif request.get("get") == "evidence":
            fields = Fields(request, what="request", party="uploader")
            evidence = self._mailbox.evidence(
                TaskId(fields.data("taskId", 32)), ServerIndex(fields.integer("server", maximum=MAX_SERVERS - 1))
            )
            await _send(writer, {"ok": {"evidence": evidence.document() if evidence else None}})
        else:
            raise ProtocolViolation("UnknownRequest", "this port takes data sets and gives results", party="uploader")

    async def _put(self, request: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        digest, size = from_hex(request.get("digest", ""), 32), request.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or size <= 0:
            raise InvalidInput("BadSize", "the size of a sealed object is a positive number of bytes")
        self._blobs.admit(digest, size)
        if self._blobs.has(digest):
            await _send(writer, {"ok": {"have": True}})
            return
        await _send(writer, {"ok": {"have": False}})
        await self._blobs.put(digest, size, reader.read)
        log.info("upload.stored")
        self._stored(digest)
        await _send(writer, {"ok": {"stored": True}})

    async def _get(self, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        task = TaskId(from_hex(request.get("taskId", ""), 32))
        result = self._mailbox.result(task)
        if result is None:
            raise InvalidInput("NoResult", "the mailbox has no whole result of this task yet: see `veilpod task status`")
        await _send(writer, {"ok": result.document()})
        async for piece in self._mailbox.result_pieces(task):
            writer.write(piece)
            async with asyncio.timeout(_SEND_SECONDS):
                await writer.drain()


async def _send(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    writer.write(json_frame(message, limit=_ANSWER_LIMIT))
    async with asyncio.timeout(_SEND_SECONDS):
        await writer.drain()
