"""Counts for Prometheus, in its text format, over the smallest HTTP server there can be: the store image carries no web framework.

No label names a task, a data set or a peer.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping

_REQUEST_SECONDS = 5.0
_MAX_REQUEST = 8192

Read = Callable[[], Mapping[str, float]]


async def serve(host: str, port: int, *, read: Read, ready: Callable[[], bool]) -> None:
    """Answer GET /metrics with what `read` gives, /healthz with 200, /readyz with 200 or 503, until cancelled."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_REQUEST_SECONDS):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(_response(request, read, ready))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, host, port, limit=_MAX_REQUEST)
    async with server:
        await server.serve_forever()


def render(values: Mapping[str, float]) -> bytes:
    """Spell gauges in the text exposition format."""
    lines = [f"# TYPE veilpod_store_{name} gauge\nveilpod_store_{name} {value}\n" for name, value in sorted(values.items())]
    return "".join(lines).encode()


def _response(request: bytes, read: Read, ready: Callable[[], bool]) -> bytes:
    path = request.split(b" ", 2)[1] if request.startswith(b"GET ") else b""
    if path == b"/metrics":
        status, body = "200 OK", render(read())
    elif path == b"/healthz" or (path == b"/readyz" and ready()):
        status, body = "200 OK", b"ok\n"
    elif path == b"/readyz":
        status, body = "503 Service Unavailable", b"the operator has not configured this store yet\n"
    else:
        status, body = "404 Not Found", b"not here\n"
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body
