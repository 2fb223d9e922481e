"""The tower's small HTTP server: what strangers can hold is bounded, and one defect answers one request."""

import asyncio
import contextlib

import pytest

from veilpod.watchtower import http
from veilpod.watchtower.http import Request, Response, Server


async def handler(request: Request) -> Response:
    if request.path == "/defect":
        raise KeyError("secret")
    return Response(body=f"{request.method} {request.path} {len(request.body)}".encode())


@contextlib.asynccontextmanager
async def serving(**options):
    server = Server(handler, **options)
    task = asyncio.create_task(server.serve("127.0.0.1", 0))
    try:
        async with asyncio.timeout(5):
            await server.listening.wait()
        yield server
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def said(port: int, raw: bytes) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(raw)
        async with asyncio.timeout(5):
            return (await reader.read()).decode()
    finally:
        writer.close()


async def test_a_request_is_answered_and_the_connection_ends():
    async with serving(max_body=10) as server:
        answer = await said(server.port, b"POST /x?y=1 HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc")
        assert answer.startswith("HTTP/1.1 200 OK\r\n")
        assert answer.endswith("POST /x 3")


@pytest.mark.parametrize(
    "head",
    [b"Content-Length: 11", b"Content-Length: -1", b"Transfer-Encoding: chunked"],
)
async def test_a_body_that_is_too_long_or_of_unknown_length_is_refused_before_it_is_read(head):
    async with serving(max_body=10) as server:
        assert (await said(server.port, b"POST /x HTTP/1.1\r\n" + head + b"\r\n\r\n")).startswith("HTTP/1.1 413 ")


@pytest.mark.parametrize("raw", [b"\r\n\r\n", b"GET\r\n\r\n", b"GET /x HTTP/1.1\r\nContent-Length: many\r\n\r\n", b"x" * 9000])
async def test_what_is_no_request_gets_no_answer(raw):
    async with serving(max_body=10) as server:
        with contextlib.suppress(ConnectionResetError):
            assert await said(server.port, raw) == ""
        assert (await said(server.port, b"GET /x HTTP/1.1\r\n\r\n")).startswith("HTTP/1.1 200 ")


async def test_a_defect_answers_one_request_and_tells_nothing():
    async with serving() as server:
        answer = await said(server.port, b"GET /defect HTTP/1.1\r\n\r\n")
        assert answer.startswith("HTTP/1.1 500 ")
        assert "secret" not in answer
        assert (await said(server.port, b"GET /x HTTP/1.1\r\n\r\n")).startswith("HTTP/1.1 200 ")


async def test_who_says_nothing_is_hung_up_on(monkeypatch):
    monkeypatch.setattr(http, "_SECONDS", 0.1)
    async with serving() as server:
        assert await said(server.port, b"GET /x HT") == ""


async def test_connections_are_bounded(monkeypatch):
    monkeypatch.setattr(http, "_CONNECTIONS", 2)
    async with serving() as server:
        held = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(2)]
        await asyncio.sleep(0)
        with contextlib.suppress(ConnectionResetError):
            assert await said(server.port, b"GET /x HTTP/1.1\r\n\r\n") == ""
        for _, writer in held:
            writer.close()
