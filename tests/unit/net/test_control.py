"""The control stream between real sockets on loopback, with a relay in the middle that can break the connection."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from veilpod.core.keys import SigningKey, node_keys
from veilpod.errors import PeerUnavailable, ProtocolViolation, Refused
from veilpod.net import control_server, control_tls
from veilpod.net.control import ControlServer, connect, control_certificate, tls_key_of
from veilpod.net.framing import json_frame, read_json_frame

OPERATOR = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
STRANGER = Ed25519PrivateKey.from_private_bytes(b"\x02" * 32)


@contextlib.asynccontextmanager
async def running(handlers: dict[str, Any] | None = None, **options: Any) -> AsyncIterator[ControlServer]:
    server = ControlServer(control_certificate(OPERATOR), handlers or {}, **options)
    task = asyncio.create_task(server.serve("127.0.0.1", 0))
    async with asyncio.timeout(5):
        await server.listening.wait()
    try:
        yield server
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Wire:
    """A TCP relay in front of a server: `cut` breaks every connection, as networks do."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._writers: list[asyncio.StreamWriter] = []
        self.connections = 0

    async def __aenter__(self) -> "Wire":
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers += [writer, back]

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
            sink.transport.abort()

        await asyncio.gather(pump(reader, back), pump(there, writer))


async def take(link: Any, count: int) -> list[tuple[int, str, dict[str, Any]]]:
    taken = []
    async with asyncio.timeout(5):
        async for event in link.events():
            taken.append(event)
            if len(taken) == count:
                break
    return taken


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the condition is somebody else's state
            await asyncio.sleep(0.005)


def test_the_operators_certificate_is_a_function_of_its_key() -> None:
    assert control_certificate(OPERATOR) == control_certificate(OPERATOR)
    assert control_certificate(OPERATOR) != control_certificate(STRANGER)
    chain_key = SigningKey(secret=b"\x07" * 32)
    assert control_certificate(node_keys(chain_key).control) == control_certificate(node_keys(chain_key).control)


async def test_a_command_is_answered_and_an_error_carries_its_code() -> None:
    async def add(args: dict[str, Any]) -> dict[str, Any]:
        return {"sum": args["a"] + args["b"]}

    async def refuse(_: dict[str, Any]) -> dict[str, Any]:
        raise Refused("NetguardRefused", "no")

    async def absent(_: dict[str, Any]) -> dict[str, Any]:
        raise PeerUnavailable("later")

    async def defect(_: dict[str, Any]) -> dict[str, Any]:
        raise KeyError("secret text")

    async with running({"add": add, "refuse": refuse, "absent": absent, "defect": defect}) as server:
        link = await connect("127.0.0.1", server.port, key=OPERATOR)
        assert await link.call("add", a=1, b=2) == {"sum": 3}
        with pytest.raises(Refused) as refused:
            await link.call("refuse")
        assert refused.value.reason == "NetguardRefused"
        with pytest.raises(PeerUnavailable):
            await link.call("absent")
        with pytest.raises(Refused) as internal:
            await link.call("defect")
        assert internal.value.reason == "Internal"
        assert "secret" not in str(internal.value)
        with pytest.raises(Refused) as unknown:
            await link.call("exec")
        assert unknown.value.reason == "UnknownCommand"
        await link.close()


async def test_the_servers_key_is_learnt_and_another_one_later_ends_the_link() -> None:
    async with running() as first, running() as second:
        link = await connect("127.0.0.1", first.port, key=OPERATOR)
        assert link.tls_key == first.tls_key
        await link.close()
        with pytest.raises(Refused) as changed:
            await connect("127.0.0.1", second.port, key=OPERATOR, pinned_tls_key=first.tls_key)
        assert changed.value.reason == "ControlKeyChanged"


async def test_a_strangers_certificate_is_refused() -> None:
    async with running() as server:
        with pytest.raises((Refused, PeerUnavailable)):
            await connect("127.0.0.1", server.port, key=STRANGER, timeout=1.0)


async def test_a_certificate_signed_by_the_operators_key_is_not_the_operators() -> None:
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    name = x509.load_der_x509_certificate(control_certificate(OPERATOR)).subject
    sub = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(STRANGER.public_key())
        .serial_number(5)
        .not_valid_before(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(2090, 1, 1, tzinfo=datetime.UTC))
        .sign(OPERATOR, None)
        .public_bytes(Encoding.DER)
    )
    async with running() as server:
        original = control_tls.control_certificate
        control_tls.control_certificate = lambda key: sub if key is STRANGER else original(key)
        try:
            with pytest.raises((Refused, PeerUnavailable)):
                await connect("127.0.0.1", server.port, key=STRANGER, timeout=1.0)
        finally:
            control_tls.control_certificate = original


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, None])
async def test_no_certificate_and_old_tls_are_refused(version: ssl.TLSVersion | None) -> None:
    async with running() as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if version is None else control_tls.client_context(OPERATOR)
        if version is not None:
            context.minimum_version, context.maximum_version = version, version
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with pytest.raises((OSError, EOFError)):
            await asyncio.wait_for(_resume(server.port, context), 5)


async def _resume(port: int, context: ssl.SSLContext) -> dict[str, Any]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        writer.write(json_frame({"id": 0, "cmd": "resume", "args": {"after": 0}}, limit=1000))
        return await read_json_frame(reader, limit=1000)
    finally:
        writer.transport.abort()


async def test_events_survive_broken_connections_in_order_and_once() -> None:
    async with running() as server, Wire(server.port) as wire:
        link = await connect("127.0.0.1", wire.port, key=OPERATOR)
        for number in range(30):
            server.emit("receipt", {"number": number})
            if number % 10 == 5:
                wire.cut()
                await asyncio.sleep(0)
        events = await take(link, 30)
        assert [event[2]["number"] for event in events] == list(range(30))
        assert [event[0] for event in events] == list(range(1, 31))
        assert wire.connections > 1
        await link.acknowledge(30)
        assert server.unacknowledged == 0
        await link.close()


async def test_a_restarted_operator_gets_what_was_not_acknowledged() -> None:
    async with running() as server:
        server.emit("ready", {})
        server.emit("offers", {"key": "0x"})
        first = await connect("127.0.0.1", server.port, key=OPERATOR)
        await take(first, 2)
        await first.acknowledge(1)
        await first.close()
        second = await connect("127.0.0.1", server.port, key=OPERATOR)
        assert [event[1] for event in await take(second, 1)] == ["offers"]
        await second.close()


async def test_a_command_whose_answer_was_lost_is_done_once() -> None:
    done = 0
    gate = asyncio.Event()

    async def pay(_: dict[str, Any]) -> dict[str, Any]:
        nonlocal done
        done += 1
        await gate.wait()
        return {"done": done}

    async with running({"pay": pay}) as server, Wire(server.port) as wire:
        link = await connect("127.0.0.1", wire.port, key=OPERATOR)
        call = asyncio.create_task(link.call("pay"))
        await until(lambda: done == 1)
        wire.cut()
        await until(lambda: wire.connections >= 2)
        gate.set()
        assert await call == {"done": 1}
        await link.close()


async def test_the_newest_connection_is_the_operators() -> None:
    async with running() as server:
        old = await connect("127.0.0.1", server.port, key=OPERATOR, call_timeout=1.0)
        new = await connect("127.0.0.1", server.port, key=OPERATOR)
        server.emit("ready", {})
        assert (await take(new, 1))[0][1] == "ready"
        await old.close()
        await new.close()


async def test_event_memory_is_bounded_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_server, "EVENT_LIMIT", 4)
    async with running() as server:
        for _ in range(4):
            server.emit("receipt", {})
        with pytest.raises(Refused) as full:
            server.emit("receipt", {})
        assert full.value.reason == "EventMemoryFull"
        room = asyncio.create_task(server.room())
        link = await connect("127.0.0.1", server.port, key=OPERATOR)
        await take(link, 4)
        assert not room.done()
        await link.acknowledge(3)
        async with asyncio.timeout(1):
            await room
        await link.close()


async def test_a_silent_server_is_unavailable_in_bounded_time() -> None:
    async with running({"sleep": lambda args: asyncio.sleep(60, {})}) as server:
        link = await connect("127.0.0.1", server.port, key=OPERATOR, call_timeout=0.05)
        with pytest.raises(PeerUnavailable):
            await link.call("sleep")
        await link.close()
    with pytest.raises(PeerUnavailable):
        await connect("127.0.0.1", server.port, key=OPERATOR, timeout=0.2)


async def test_a_server_that_is_just_starting_is_dialled_again_and_again() -> None:
    async with running() as server, Wire(server.port) as wire:
        starting = 9

        async def door(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal starting
            starting -= 1
            if starting >= 0:
                writer.transport.abort()
            else:
                await wire._pass(reader, writer)

        front = await asyncio.start_server(door, "127.0.0.1", 0)
        async with front:
            link = await connect("127.0.0.1", front.sockets[0].getsockname()[1], key=OPERATOR, timeout=8.0)
            await link.close()
    assert starting < 0


async def test_frames_larger_than_the_limit_are_refused_before_they_are_read() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(b"\xff\xff\xff\xff")
    with pytest.raises(ProtocolViolation):
        await read_json_frame(reader, limit=1000)


def test_the_tls_key_is_the_digest_of_the_public_key_not_of_the_certificate() -> None:
    assert tls_key_of(control_certificate(OPERATOR)) != tls_key_of(control_certificate(STRANGER))
