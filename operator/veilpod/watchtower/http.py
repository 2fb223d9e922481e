"""The smallest HTTP/1.1 server there can be: one bounded request per connection, in a few seconds, or nothing.

It serves strangers, so what they can hold is bounded: connections, bytes, time. TLS towards clients elsewhere is for what stands in front.
"""

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

_SECONDS = 15.0
_MAX_HEAD = 8192
_CONNECTIONS = 256
_REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    409: "Conflict",
    413: "Content Too Large",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked, and the address it came from."""

    method: str
    path: str
    body: bytes
    remote: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What is answered."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"


Handler = Callable[[Request], Awaitable[Response]]


class Server:
    """Answers with `handler`. Port 0 takes any; `port` is the real one once `listening`."""

    def __init__(self, handler: Handler, *, max_body: int = 0) -> None:
        self._handler, self._max_body = handler, max_body
        self._open = 0
        self.listening = asyncio.Event()
        self.port = 0

    async def serve(self, host: str, port: int) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:

            def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                if self._open >= _CONNECTIONS:
                    writer.transport.abort()
                    return
                self._open += 1
                group.create_task(self._converse(reader, writer))

            server = await asyncio.start_server(accept, host or None, port, limit=_MAX_HEAD, backlog=_CONNECTIONS)
            async with server:
                self.port = server.sockets[0].getsockname()[1]
                self.listening.set()
                await server.serve_forever()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, EOFError, TimeoutError, asyncio.LimitOverrunError, ValueError):
                async with asyncio.timeout(_SECONDS):
                    writer.write(_spelled(await self._answer(reader, writer)))
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
        finally:
            self._open -= 1
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Response:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head.split("\r\n")
        method, path, _ = line.split(" ", 2)
        headers = {name.strip().lower(): value.strip() for name, _, value in (field.partition(":") for field in fields if field)}
        size = int(headers.get("content-length", "0"))
        if not 0 <= size <= self._max_body or "transfer-encoding" in headers:
            return Response(status=413, body=b"a request is small and says its Content-Length\n")
        body = await reader.readexactly(size)
        peer = writer.get_extra_info("peername") or ("",)
        try:
            return await self._handler(Request(method=method, path=path.partition("?")[0], body=body, remote=str(peer[0])))
        except Exception as error:  # a defect of ours answers one request with an error and no detail
            log.error("http.defect", extra={"error": type(error).__name__}, exc_info=error)
            return Response(status=500, body=b"the request failed for a reason that is our defect\n")


def _spelled(response: Response) -> bytes:
    head = (
        f"HTTP/1.1 {response.status} {_REASONS[response.status]}\r\nContent-Type: {response.content_type}\r\n"
        f"Content-Length: {len(response.body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + response.body
