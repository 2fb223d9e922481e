"""Both directions of a link against each other: every byte attested once, nothing beyond the window."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import sandboxes

from veilpod.agent import accounting
from veilpod.agent.accounting import Received, Sent
from veilpod.core.ids import ServerIndex
from veilpod.core.receipt import Transcript
from veilpod.errors import ProtocolViolation

KEY = sandboxes.keys(1).signing
START = Transcript(task=sandboxes.TASK, link=(ServerIndex(0), ServerIndex(1)), direction=1)

# (stream, bytes) in the order of sending; True: a receipt is made here
steps = st.lists(st.tuples(st.integers(1, 4), st.binary(min_size=1, max_size=300)) | st.just(True), max_size=40)


def pair(*, priced: bool = False) -> tuple[Sent, Received]:
    return Sent(START, KEY.address, priced=priced), Received(START, KEY)


@given(steps, st.randoms())
def test_every_byte_is_attested_once_however_streams_interleave(script: list[object], random: object) -> None:
    sent, received = pair()
    under_way: dict[int, list[bytes]] = {}
    for step in script:
        if step is True:
            # Streams overtake each other on the way; within one, order holds.
            while any(under_way.values()):
                stream = random.choice([number for number, queue in under_way.items() if queue])  # type: ignore[attr-defined]
                received.add(stream, under_way[stream].pop(0))
            attested = received.attest()
            if attested is not None:
                sent.accept(*attested)
        else:
            stream, data = step  # type: ignore[misc]
            sent.add(stream, data)
            under_way.setdefault(stream, []).append(data)
    assert sent.attested == received.attested
    assert sent.total - sent.attested == sum(len(data) for queue in under_way.values() for data in queue)


@pytest.mark.parametrize("lie", ["other bytes", "more bytes", "another stream", "parts that do not add up"])
def test_a_receipt_for_anything_but_what_was_sent_is_refused(lie: str) -> None:
    sent, received = pair()
    sent.add(1, b"hello")
    sent.add(2, b"world")
    received.add(1, b"hellO" if lie == "other bytes" else b"hello")
    if lie == "more bytes":
        received.add(1, b"!")
    receipt, parts = received.attest() or pytest.fail("nothing to attest")
    if lie == "another stream":
        parts = [(2, 5)]
    if lie == "parts that do not add up":
        parts = [(1, 4)]
    with pytest.raises(ProtocolViolation):
        sent.accept(receipt, parts)


async def test_no_more_than_a_window_is_under_way_unpaid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounting, "WINDOW", 100)
    sent, received = pair(priced=True)
    await sent.reserve(100)
    sent.add(1, b"x" * 100)
    waiting = asyncio.create_task(sent.reserve(10))
    received.add(1, b"x" * 100)
    sent.accept(*(received.attest() or pytest.fail("nothing")))
    await asyncio.sleep(0)
    assert not waiting.done()  # attested is not paid
    sent.credit(5)
    await asyncio.sleep(0)
    assert not waiting.done()
    sent.credit(10)
    async with asyncio.timeout(1):
        await waiting
    sent.credit(3)  # an old word never takes credit away
    async with asyncio.timeout(1):
        await sent.reserve(10)


async def test_credit_beyond_what_was_attested_opens_no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounting, "WINDOW", 100)
    sent, _ = pair(priced=True)
    sent.add(1, b"x" * 100)
    sent.credit(10**9)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await sent.reserve(1)


def test_a_batch_is_full_at_its_size_or_when_too_many_streams_share_it() -> None:
    _, received = pair()
    assert not received.add(1, b"x")
    assert received.add(1, bytes(accounting.BATCH))
    received.attest()
    assert received.attest() is None
    assert any(received.add(number % 2, b"x") for number in range(2000))
