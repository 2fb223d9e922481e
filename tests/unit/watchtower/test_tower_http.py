"""The tower's HTTP server: what strangers can hold is bounded, and one defect answers one request."""

import asyncio
import contextlib
import logging
import zlib

import pytest
from aiohttp import web

from veilpod.core.guard import REQUEST_LIMIT
from veilpod.watchtower import http
from veilpod.watchtower.http import Server


class Tower:
    """Echoes what it is sent; /busy answers once `free` is set."""

    def __init__(self):
        self.free, self.busy = asyncio.Event(), asyncio.Semaphore(0)
        self.opened = []
        routes = [web.post("/echo", self.echo), web.get("/busy", self.wait), web.get("/defect", self.fail), web.get("/remote", self.tell)]
        self.server = Server(*routes)

    async def echo(self, request):
        return web.Response(body=await request.read())

    async def wait(self, _):
        self.busy.release()
        await self.free.wait()
        return web.Response(text="free")

    async def fail(self, _):
        raise KeyError("secret")

    async def tell(self, request):
        return web.Response(text=request.remote)

    async def connect(self, source="127.0.0.1"):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port, local_addr=(source, 0))
        self.opened.append(writer)
        return reader, writer

    async def hears(self, raw, **options):
        """All that is said until the connection ends; "" when it is cut off."""
        reader, writer = await self.connect(**options)
        try:
            writer.write(raw)
            async with asyncio.timeout(10):
                return (await reader.read()).decode("latin-1")
        except ConnectionResetError:
            return ""
        finally:
            writer.close()

    async def gets(self, path, **options):
        return await self.hears(f"GET {path} HTTP/1.1\r\nHost: tower\r\n\r\n".encode(), **options)

    async def works(self, **options):
        return (await self.gets("/remote", **options)).startswith("HTTP/1.1 200 ")


@contextlib.asynccontextmanager
async def serving():
    tower = Tower()
    task = asyncio.create_task(tower.server.serve("127.0.0.1", 0))
    try:
        async with asyncio.timeout(5):
            await tower.server.listening.wait()
        yield tower
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        for writer in tower.opened:
            writer.transport.abort()


@pytest.fixture
async def tower():
    async with serving() as found:
        yield found


def post(body, *fields, path="/echo", size=None):
    length = f"Content-Length: {len(body) if size is None else size}"
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: tower", *fields, length, "", ""]).encode() + body


async def test_one_request_is_answered_and_the_connection_ends(tower):
    answer = await tower.hears(post(b"abc", path="/echo?y=1") + post(b"a second one"))
    head, _, body = answer.partition("\r\n\r\n")
    assert (head.splitlines()[0], body) == ("HTTP/1.1 200 OK", "abc")
    assert "Connection: close" in head
    assert "aiohttp" not in head


async def test_the_address_that_a_request_comes_from_is_the_connections_own(tower):
    raw = b"GET /remote HTTP/1.1\r\nHost: tower\r\nX-Forwarded-For: 192.0.2.1\r\nForwarded: for=192.0.2.1\r\n\r\n"
    assert (await tower.hears(raw, source="127.0.0.2")).endswith("\r\n\r\n127.0.0.2")


async def test_the_longest_body_is_taken_and_one_byte_more_is_not(tower):
    assert (await tower.hears(post(b"x" * REQUEST_LIMIT))).endswith("\r\n\r\n" + "x" * REQUEST_LIMIT)
    assert (await tower.hears(post(b"x" * (REQUEST_LIMIT + 1)))).startswith("HTTP/1.1 413 ")
    chunks = b"%x\r\n%s\r\n" % (REQUEST_LIMIT, b"x" * REQUEST_LIMIT) * 2
    chunked = b"POST /echo HTTP/1.1\r\nHost: tower\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    assert (await tower.hears(chunked)).startswith("HTTP/1.1 413 ")


async def test_a_compressed_body_is_not_unpacked(tower):
    packed = zlib.compress(b"x" * 1_000_000)
    answer = await tower.hears(post(packed, "Content-Encoding: deflate"))
    assert answer.endswith("\r\n\r\n" + packed.decode("latin-1"))


async def test_an_endless_body_is_answered_and_hung_up_on(monkeypatch):
    monkeypatch.setattr(http, "_LINGER_SECONDS", 0.2)
    async with serving() as tower:
        reader, writer = await tower.connect()
        writer.write(post(b"x" * (REQUEST_LIMIT + 1), size=10**12))
        async with asyncio.timeout(10):
            assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
            with contextlib.suppress(ConnectionError):
                while not reader.at_eof():
                    writer.write(b"x" * 1000)
                    await writer.drain()
                    await asyncio.sleep(0)


@pytest.mark.parametrize(("method", "path", "status"), [("POST", "/nothing", 404), ("GET", "/echo", 405), ("POST", "/busy", 405)])
async def test_other_paths_and_methods_are_refused(tower, method, path, status):
    assert (await tower.hears(f"{method} {path} HTTP/1.1\r\nHost: tower\r\n\r\n".encode())).startswith(f"HTTP/1.1 {status} ")


MALFORMED = {
    "no request": b"\x16\x03\x01\x02\x00\r\n\r\n",
    "no path": b"GET\r\n\r\n",
    "a length that is none": b"GET /remote HTTP/1.1\r\nHost: tower\r\nContent-Length: many\r\n\r\n",
    "two lengths": b"POST /echo HTTP/1.1\r\nHost: tower\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nabc",
    "a line without end": b"GET /" + b"x" * 9000,
    "a field without end": b"GET /remote HTTP/1.1\r\nHost: tower\r\nX: " + b"x" * 9000,
    "too many fields": b"GET /remote HTTP/1.1\r\nHost: tower\r\n" + b"X: x\r\n" * 100 + b"\r\n",
    "a chunk that is none": b"POST /echo HTTP/1.1\r\nHost: tower\r\nTransfer-Encoding: chunked\r\n\r\nnone\r\n",
}


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED)
async def test_what_is_no_request_is_refused_and_does_not_fill_the_log(tower, caplog, raw):
    assert (await tower.hears(raw)).split(" ")[1] == "400"
    assert await tower.works()
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


async def test_a_client_that_leaves_in_the_middle_does_not_fill_the_log(tower, caplog):
    _, writer = await tower.connect()
    writer.write(post(b"half", size=100))
    await writer.drain()
    writer.close()
    assert await tower.works()
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


async def test_a_defect_answers_one_request_and_tells_nothing(tower, caplog):
    answer = await tower.gets("/defect")
    assert answer.startswith("HTTP/1.1 500 ")
    assert "secret" not in answer
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == ["http.defect"]
    assert await tower.works()


@pytest.mark.parametrize(
    ("sent", "heard"),
    [
        (b"", ""),
        (b"GET /remote HT", ""),
        (post(b"half", size=100), "HTTP/1.1 408 "),
        (b"GET /busy HTTP/1.1\r\nHost: t\r\n\r\n", "HTTP/1.1 503 "),
    ],
    ids=["nothing", "half a head", "half a body", "all, and the answer takes too long"],
)
async def test_a_slow_request_is_given_up(monkeypatch, sent, heard):
    monkeypatch.setattr(http, "_SECONDS", 0.2)
    monkeypatch.setattr(http, "_LINGER_SECONDS", 0.1)
    async with serving() as tower:
        answer = await tower.hears(sent)
        assert answer.startswith(heard)
        assert bool(answer) == bool(heard)


@pytest.mark.parametrize(
    ("head", "heard"), [(b"GET /remote?", b""), (post(b"", size=1000), b"HTTP/1.1 408 Request Timeout")], ids=["head", "body"]
)
async def test_what_comes_drop_by_drop_gets_no_more_time(monkeypatch, head, heard):
    monkeypatch.setattr(http, "_SECONDS", 0.3)
    async with serving() as tower:
        reader, writer = await tower.connect()
        writer.write(head)
        ended = asyncio.create_task(reader.readline())
        async with asyncio.timeout(10):
            while not ended.done():
                writer.write(b"x")
                await asyncio.wait([ended], timeout=0.05)
        with contextlib.suppress(ConnectionError):  # the last drop may have met a closed connection
            assert (await ended).rstrip() == heard


async def test_one_address_cannot_take_the_places_of_others(monkeypatch):
    monkeypatch.setattr(http, "_CONNECTIONS_OF_ONE", 3)
    async with serving() as tower:
        held = [await tower.connect() for _ in range(2)]
        busy = asyncio.create_task(tower.gets("/busy"))
        async with asyncio.timeout(5):
            await tower.busy.acquire()
        assert not await tower.works()
        assert await tower.works(source="127.0.0.2")
        tower.free.set()
        assert (await busy).endswith("free")
        for _, writer in held:
            writer.close()
        async with asyncio.timeout(5):
            while not await tower.works():
                continue


async def test_all_connections_are_bounded(monkeypatch):
    monkeypatch.setattr(http, "_CONNECTIONS", 3)
    async with serving() as tower:
        held = [await tower.connect(source=f"127.0.0.{number}") for number in (2, 3, 4)]
        assert not await tower.works(source="127.0.0.5")
        held.pop()[1].close()
        async with asyncio.timeout(5):
            while not await tower.works(source="127.0.0.5"):
                continue


async def test_a_server_stops_soon_whatever_its_clients_do(monkeypatch):
    monkeypatch.setattr(http, "_STOP_SECONDS", 0.1)
    async with serving() as tower:
        for sent in (b"", b"GET /remote HT", post(b"half", size=100)):
            _, writer = await tower.connect()
            writer.write(sent)
        busy = asyncio.create_task(tower.gets("/busy"))
        async with asyncio.timeout(5):
            await tower.busy.acquire()
        stopping = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - stopping < 5
    assert await busy == ""
