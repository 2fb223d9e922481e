"""The line to the mailbox through streams that break."""

import asyncio
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from tests.support import sandboxes
from tests.support.streams import MemoryStream, stream_pair

from veilpod.agent.mailbox import MailboxClient, Notes
from veilpod.core.agent_messages import MailboxEntry
from veilpod.core.ids import NodeId, ServerIndex
from veilpod.core.meeting import Note, make_note
from veilpod.errors import CircuitFailed, PeerUnavailable, Refused
from veilpod.net import sealed_request

KEY = X25519PrivateKey.from_private_bytes(b"\x01" * 32)
ENTRY = MailboxEntry(node=NodeId(9), onion_key=KEY.public_key().public_bytes_raw(), host="127.0.0.1", port=1)


class Circuits:
    """An onion whose first circuits fail: before a stream is there, or in the middle of an answer."""

    def __init__(self, *failures: str) -> None:
        self.failures = list(failures)
        self.opened = 0
        self.heard: list[dict[str, Any]] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, host: str, port: int) -> MemoryStream:
        self.opened += 1
        failure = self.failures.pop(0) if self.failures else ""
        if failure == "circuit":
            raise CircuitFailed("no path")
        ours, theirs = stream_pair()
        if failure == "stream":
            await theirs.close()
        else:
            self._tasks.append(asyncio.create_task(sealed_request.serve(theirs, KEY, self._answer)))
        return ours

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def rendezvous(self) -> Any:
        raise NotImplementedError

    async def connect(self, **_: Any) -> Any:
        raise NotImplementedError

    async def _answer(self, op: str, args: dict[str, Any]) -> dict[str, Any]:
        if op == "refuse":
            raise Refused("UnknownTask", "no")
        self.heard.append(args)
        return {"op": op}


async def test_a_request_survives_broken_circuits() -> None:
    onion = Circuits("circuit", "stream", "circuit")
    client = MailboxClient(onion, ENTRY)
    assert await client.ask("put-note", {"n": 1}, seconds=10) == {"op": "put-note"}
    assert await client.ask("put-note", {"n": 2}, seconds=10) == {"op": "put-note"}
    assert onion.opened == 4  # the fourth carried both
    assert onion.heard == [{"n": 1}, {"n": 2}]
    await onion.close()


async def test_a_refusal_is_an_answer_and_silence_is_bounded() -> None:
    onion = Circuits()
    with pytest.raises(Refused):
        await MailboxClient(onion, ENTRY).ask("refuse", {}, seconds=5)
    with pytest.raises(PeerUnavailable):
        await MailboxClient(Circuits(*["circuit"] * 50), ENTRY).ask("put-note", {}, seconds=0.3)
    await onion.close()


def note(event: str, code: str, time: int) -> Note:
    return make_note(task=sandboxes.TASK, index=ServerIndex(0), event=event, code=code, time=time, key=sandboxes.keys().signing)


async def test_notes_never_make_anybody_wait_and_arrive_in_order() -> None:
    full = Notes(make=note)
    for _ in range(100):  # more than are kept: dropped, not awaited
        full.put("Computed")
    notes = Notes(make=note)
    onion = Circuits("stream")
    notes.put("InputsVerified")
    notes.put("Failed", "PeerLost")
    sending = asyncio.create_task(notes.send(MailboxClient(onion, ENTRY)))
    await notes.sent(seconds=5)
    assert [(note["event"], note["code"]) for note in onion.heard] == [("InputsVerified", ""), ("Failed", "PeerLost")]
    sending.cancel()
    await onion.close()
