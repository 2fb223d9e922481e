"""Counts for Prometheus in its text format, and the probes, over the smallest HTTP server there can be.

The relay image carries no web framework. No label and no value is about one circuit, client or neighbour. Bounded: a small request in a
few seconds, or nothing.
"""

import asyncio
import contextlib

from veilpod.relay.router import Relay

_REQUEST_SECONDS = 5.0
_MAX_REQUEST = 8192
_COUNTERS = ("cells", "creates", "creates_refused", "creates_replayed", "links_refused", "meetings", "tampered")


async def serve(host: str, port: int, relay: Relay) -> None:
    """Answer GET /metrics, /healthz and /readyz until cancelled."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_REQUEST_SECONDS):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(_response(request, relay))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, host, port, limit=_MAX_REQUEST)
    async with server:
        await server.serve_forever()


def render(relay: Relay) -> bytes:
    """Spell the relay's counters and gauges."""
    lines = [f"# TYPE veilpod_relay_{name}_total counter\nveilpod_relay_{name}_total {relay.counters[name]}\n" for name in _COUNTERS]
    gauges = {"links": len(relay.links), "circuits": len(relay.circuits), "draining": int(relay.draining), "queued_bytes": relay.queued}
    lines += [f"# TYPE veilpod_relay_{name} gauge\nveilpod_relay_{name} {value}\n" for name, value in gauges.items()]
    return "".join(lines).encode()


def _response(request: bytes, relay: Relay) -> bytes:
    path = request.split(b" ", 2)[1] if request.startswith(b"GET ") else b""
    if path == b"/metrics":
        status, body = "200 OK", render(relay)
    elif path == b"/readyz" and not relay.informed:
        status, body = "503 Service Unavailable", b"not listed yet\n"
    elif path in (b"/healthz", b"/readyz"):
        status, body = "200 OK", b"ok\n"
    else:
        status, body = "404 Not Found", b"not here\n"
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body
