"""A store as its operator, its sandboxes and its users meet it: real sockets, real TLS, real sealed requests."""

import asyncio
import hashlib
import os
import pathlib
from typing import Any

import pytest
from tests.support import mailboxes, stores
from tests.support.mailboxes import OFFERS, POSTS, TASK, TERMS

from veilpod.core import dataset
from veilpod.core.canonical import to_hex
from veilpod.core.keys import SigningKey, custody_key, node_keys
from veilpod.errors import CircuitFailed, PeerUnavailable, Refused
from veilpod.net import sealed_request
from veilpod.net.control import connect
from veilpod.net.framing import json_frame, read_json_frame

SEALED = os.urandom(1_300_000)


def sealed_object() -> bytes:
    header = dataset.make_header(
        name="north", custodian=custody_key(SigningKey(secret=b"\x31" * 32)).public_bytes, data_key=b"k" * 32, prefix=b"p" * 8
    )
    return b"".join(dataset.seal_stream([b"row\n" * 400_000], header=header, data_key=b"k" * 32))


async def exchange(port: int, request: dict[str, Any], body: bytes = b"") -> tuple[list[dict[str, Any]], bytes]:
    """One exchange on the upload port: the messages, and the bytes after a message with a size."""
    messages = []
    async with stores.stream_to(port) as stream:
        await stream.write(json_frame(request, limit=4096))
        messages.append(await read_json_frame(stream, limit=4096))
        if messages[0].get("ok") == {"have": False}:
            await stream.write(body)
            messages.append(await read_json_frame(stream, limit=4096))
        size = messages[0].get("ok", {}).get("size", 0)
        return messages, await stream.readexactly(size)


async def ask(service: Any, op: str, **args: Any) -> dict[str, Any]:
    async with stores.stream_to(service.listener.port) as stream:
        return await sealed_request.request(stream, stores.SEAL_PUBLIC, op, timeout=10, **args)


async def test_a_task_meets_in_the_mailbox_and_leaves_its_result(tmp_path: pathlib.Path) -> None:
    async with stores.running(tmp_path) as service, stores.linked(service) as operator:
        await operator.link.announce_task(TERMS)
        async with stores.stream_to(service.listener.port) as stream:  # many requests on one stream, as an agent does
            for offer in OFFERS:
                await sealed_request.request(stream, stores.SEAL_PUBLIC, "put-offer", **offer.document())
            answer = await sealed_request.request(stream, stores.SEAL_PUBLIC, "get-offers", taskId=to_hex(TASK))
            assert answer == {"offers": [offer.document() for offer in OFFERS]}
            for posts in POSTS:
                answers = await asyncio.gather(*(ask(service, "put-ceremony", **post.document()) for post in posts))
                assert [answer["missing"] for answer in answers] == [[], []]
            assert (await operator.link.ceremony(TASK)).confirmations == tuple(post.word for post in POSTS[-1])
            for index in range(2):
                await sealed_request.request(stream, stores.SEAL_PUBLIC, "put-acceptance", **mailboxes.acceptance(index).document())
                await sealed_request.request(stream, stores.SEAL_PUBLIC, "put-note", **mailboxes.note(index).document())
            assert await operator.link.result_info(TASK) is None
            for piece in mailboxes.pieces(SEALED, size=1 << 19):
                await sealed_request.request(stream, stores.SEAL_PUBLIC, "put-result", **piece.document())

        assert await operator.link.offers(TASK) == OFFERS
        assert [a.signature for a in await operator.link.acceptances(TASK)] == [mailboxes.acceptance(i).signature for i in range(2)]
        assert await operator.link.notes(TASK) == [mailboxes.note(0), mailboxes.note(1)]
        info = await operator.link.result_info(TASK)
        assert info is not None
        assert (info.size, info.digest) == (len(SEALED), hashlib.sha256(SEALED).digest())
        told = [await operator.event("mailbox") for _ in range(7)]
        assert [(data["what"], data["index"]) for data in told][-1] == ("result", 0)

        [message], body = await exchange(service.upload.port, {"get": "result", "taskId": to_hex(TASK)})
        assert message["ok"]["digest"] == to_hex(info.digest)
        assert body == SEALED

        await operator.link.forget_task(TASK)
        with pytest.raises(Refused):
            await operator.link.offers(TASK)


async def test_an_announced_data_set_is_uploaded_and_its_header_read(tmp_path: pathlib.Path) -> None:
    data = sealed_object()
    digest = hashlib.sha256(data).digest()
    request = {"put": "dataset", "digest": to_hex(digest), "size": len(data)}
    async with stores.running(tmp_path) as service, stores.linked(service) as operator:
        messages, _ = await exchange(service.upload.port, request, data)
        assert messages[0]["error"]["code"] == "NotAnnounced"

        assert not await operator.link.announce_dataset(digest, len(data))
        messages, _ = await exchange(service.upload.port, request, data)
        assert messages == [{"ok": {"have": False}}, {"ok": {"stored": True}}]
        assert await operator.event("stored") == {"digest": to_hex(digest)}
        assert await operator.link.announce_dataset(digest, len(data))

        messages, _ = await exchange(service.upload.port, request)
        assert messages == [{"ok": {"have": True}}]
        header = await operator.link.header(digest)
        assert dataset.open_data_key(header, custody_key(SigningKey(secret=b"\x31" * 32))) == b"k" * 32

        await operator.link.forget_dataset(digest)
        with pytest.raises(Refused) as refused:
            await operator.link.header(digest)
        assert refused.value.reason == "NotStored"


async def test_a_cut_off_or_wrong_upload_is_refused_and_the_store_goes_on(tmp_path: pathlib.Path) -> None:
    data = sealed_object()
    digest = hashlib.sha256(data).digest()
    request = {"put": "dataset", "digest": to_hex(digest), "size": len(data)}
    async with stores.running(tmp_path) as service, stores.linked(service) as operator:
        await operator.link.announce_dataset(digest, len(data))
        messages, _ = await exchange(service.upload.port, request, b"\0" + data[1:])
        assert messages[1]["error"]["code"] == "DigestMismatch"
        async with stores.stream_to(service.upload.port) as stream:
            await stream.write(json_frame(request, limit=4096))
            await read_json_frame(stream, limit=4096)
            await stream.write(data[:1000])
            await stream.write_eof()
            assert (await read_json_frame(stream, limit=4096))["error"]["code"] == "UploadCutOff"
        messages, _ = await exchange(service.upload.port, {"delete": "everything"})
        assert messages[0]["error"]["code"] == "UnknownRequest"
        messages, _ = await exchange(service.upload.port, request, data)
        assert messages[1] == {"ok": {"stored": True}}


async def test_an_unconfigured_store_answers_no_request(tmp_path: pathlib.Path) -> None:
    async with stores.running(tmp_path) as service:
        with pytest.raises((CircuitFailed, PeerUnavailable)):
            await ask(service, "get-offers", taskId=to_hex(TASK))


async def test_a_request_sealed_to_another_key_ends_the_stream(tmp_path: pathlib.Path) -> None:
    other = node_keys(SigningKey(secret=b"\x32" * 32)).seal.public_key().public_bytes_raw()
    async with stores.running(tmp_path) as service, stores.linked(service) as operator:
        await operator.link.announce_task(TERMS)
        async with stores.stream_to(service.listener.port) as stream:
            with pytest.raises((CircuitFailed, PeerUnavailable)):
                await sealed_request.request(stream, other, "get-offers", timeout=10, taskId=to_hex(TASK))
        assert await ask(service, "get-offers", taskId=to_hex(TASK)) == {"offers": []}


async def test_what_no_sandbox_may_ask_is_refused(tmp_path: pathlib.Path) -> None:
    async with stores.running(tmp_path) as service, stores.linked(service):
        for op in ("configure", "forget-task", "deliver", ""):
            with pytest.raises(Refused) as refused:
                await ask(service, op)
            assert refused.value.reason == "UnknownRequest"
        with pytest.raises(Refused):
            await ask(service, "put-result", taskId=5)


async def test_another_operator_is_refused(tmp_path: pathlib.Path) -> None:
    async with stores.running(tmp_path) as service:
        stranger = node_keys(SigningKey(secret=b"\x32" * 32)).control
        with pytest.raises((Refused, PeerUnavailable)):
            await connect("127.0.0.1", service.control.port, key=stranger, timeout=2)


async def test_a_restarted_store_is_found_configured_and_has_kept_everything(tmp_path: pathlib.Path) -> None:
    async with stores.running(tmp_path) as service, stores.linked(service) as operator:
        await operator.link.announce_task(TERMS)
        await ask(service, "put-offer", **OFFERS[0].document())
    async with stores.running(tmp_path) as service, stores.linked(service) as operator:
        assert await operator.link.offers(TASK) == OFFERS[:1]
        await ask(service, "put-offer", **OFFERS[1].document())
        assert await operator.link.offers(TASK) == OFFERS


async def test_the_link_gives_up_with_a_transient_error_when_the_store_is_another_one(tmp_path: pathlib.Path) -> None:
    async with stores.running(tmp_path) as service:
        operator = stores.Linked(service)
        running = asyncio.create_task(operator.link.run())
        async with asyncio.timeout(10):
            await operator.ready.wait()
        assert operator.link.connected
        port = service.control.port
    async with stores.running(tmp_path) as service:
        # The new store has the old one's port only in a cluster; here a relay of bytes stands for the Service.
        server = await asyncio.start_server(lambda r, w: _relay(r, w, service.control.port), "127.0.0.1", port)
        async with server:
            with pytest.raises(PeerUnavailable):
                async with asyncio.timeout(20):
                    await running
        assert not operator.link.connected


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            target.write(data)
        target.close()

    await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer), return_exceptions=True)
