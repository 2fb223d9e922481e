"""Sealed requests over a byte pipe with the Stream port's interface."""

import asyncio
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from tests.support.streams import stream_pair

from veilpod.errors import PeerUnavailable, ProtocolViolation, Refused
from veilpod.net import sealed_request

KEY = X25519PrivateKey.from_private_bytes(b"\x01" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()


async def answer(op: str, args: dict[str, Any]) -> dict[str, Any]:
    match op:
        case "echo":
            return args
        case "refuse":
            raise Refused("TaskUnknown", "never heard of it")
        case "later":
            raise PeerUnavailable("busy")
        case "huge":
            return {"x": "0x" + "00" * sealed_request.FRAME_LIMIT}
        case _:
            raise KeyError("secret detail")


async def test_many_requests_follow_each_other_on_one_stream() -> None:
    ours, theirs = stream_pair()
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(sealed_request.serve(theirs, KEY, answer))
        for number in range(5):
            assert await sealed_request.request(ours, PUBLIC, "echo", number=number) == {"number": number}
        with pytest.raises(Refused) as refused:
            await sealed_request.request(ours, PUBLIC, "refuse")
        assert refused.value.reason == "TaskUnknown"
        with pytest.raises(PeerUnavailable):
            await sealed_request.request(ours, PUBLIC, "later")
        with pytest.raises(Refused) as internal:
            await sealed_request.request(ours, PUBLIC, "other")
        assert internal.value.reason == "Internal"
        assert "secret" not in str(internal.value)
        with pytest.raises(Refused) as too_large:
            await sealed_request.request(ours, PUBLIC, "huge")
        assert too_large.value.reason == "AnswerTooLarge"
        await ours.write_eof()


async def test_a_request_for_another_node_is_not_answered() -> None:
    ours, theirs = stream_pair()
    serving = asyncio.create_task(sealed_request.serve(theirs, X25519PrivateKey.generate(), answer))
    with pytest.raises(PeerUnavailable):
        await sealed_request.request(ours, PUBLIC, "echo", timeout=0.2)
    with pytest.raises(ProtocolViolation):
        await serving


async def test_an_altered_answer_is_refused() -> None:
    ours, theirs = stream_pair()
    asking = asyncio.create_task(sealed_request.request(ours, PUBLIC, "echo"))
    await theirs.readexactly(4)
    await theirs.write((60).to_bytes(4, "big") + bytes(60))
    with pytest.raises(ProtocolViolation):
        await asking


async def test_a_request_above_the_limit_is_not_sent() -> None:
    ours, _ = stream_pair()
    with pytest.raises(ProtocolViolation):
        await sealed_request.request(ours, PUBLIC, "echo", data="x" * sealed_request.FRAME_LIMIT)


async def test_nothing_readable_is_on_the_wire() -> None:
    ours, theirs = stream_pair()
    asking = asyncio.create_task(sealed_request.request(ours, PUBLIC, "echo", secret="findme", timeout=5))
    size = int.from_bytes(await theirs.readexactly(4), "big")
    assert b"findme" not in await theirs.readexactly(size)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
