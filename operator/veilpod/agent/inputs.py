"""Receiving inputs: who sends what to this sandbox, checked in the order in which each check is worth something (paper steps 5 and 6).

    hello      it is an input of this task for this sandbox        (or the stream is refused)
    statement  ours, so that the store can compare it with the chain
    grant      for this statement and object, by its owner or its store: signature first
    object     SHA-256 of the sealed bytes equals the specification's
    plaintext  only now the data key and the object are opened, into a memory volume

One object at a time: the sealed bytes are held in memory until their digest is known, and given back piece by piece while they are opened.
"""

import asyncio
import collections
import contextlib
import hashlib
import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from veilpod.agent.identity import Identity
from veilpod.agent.volumes import InputFile
from veilpod.core.agent_messages import Configuration
from veilpod.core.canonical import to_hex
from veilpod.core.dataset import Opener
from veilpod.core.fields import Fields
from veilpod.core.grant import Grant, open_grant, parse_grant, verify_grant
from veilpod.core.ids import Address, ResourceId
from veilpod.core.task.spec import Input
from veilpod.errors import ProtocolViolation, Refused, Terminal, VeilpodError
from veilpod.net.framing import json_frame, read_json_frame
from veilpod.ports import RendezvousPoint, Session, Stream

_MESSAGE_LIMIT = 64 << 10
_PIECE = 256 << 10
_ANSWER_SECONDS = 150.0  # a grant may take a person's key server a while
_IDLE_SECONDS = 60.0
_GOODBYE_SECONDS = 10.0

log = logging.getLogger(__name__)

Progress = Callable[[int, int], object]  # (received, verified)


class Inputs:
    """All inputs of this sandbox. `receive_all` returns when each is verified and in its place."""

    def __init__(
        self, configuration: Configuration, *, root: pathlib.Path, identity: Identity, server_signature: bytes, progress: Progress
    ) -> None:
        self._task = configuration.task
        self._custodians: Mapping[int, Address] = {store.node: store.owner for store in configuration.stores}
        self._root, self._identity, self._server_signature, self._progress = root, identity, server_signature, progress
        self._missing: list[Input] = [item for item in configuration.spec.inputs if item.to == configuration.index]
        self.total = len(self._missing)
        self._received = 0
        self._verified = 0
        self._changed = asyncio.Event()
        self._turn = asyncio.Lock()
        self._refusal: Terminal | None = None

    async def receive_all(self, points: Sequence[RendezvousPoint], *, seconds: float) -> None:
        """Meet every store and take what it brings. Raises Refused("InputTimeout" | "InputRefused")."""
        if not self.total:
            return
        try:
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                meetings = [group.create_task(self._meet(point)) for point in points]
                for meeting in meetings:
                    meeting.add_done_callback(lambda _: self._changed.set())
                while self._missing and self._refusal is None and not all(meeting.done() for meeting in meetings):
                    self._changed.clear()
                    await self._changed.wait()
                for meeting in meetings:
                    meeting.cancel()
        except TimeoutError as error:
            raise Refused("InputTimeout", f"{self._verified} of {self.total} inputs arrived in time") from error
        if self._refusal is not None:
            raise self._refusal
        if self._missing:
            # Their sessions are over for good, so nobody can come any more.
            raise Refused("InputTimeout", f"{self._verified} of {self.total} inputs arrived before their circuits broke")

    async def _meet(self, point: RendezvousPoint) -> None:
        try:
            session = await point.accept()
        except VeilpodError as error:
            log.info("inputs.rendezvous_lost", extra={"reason": type(error).__name__})
            return
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    label, stream = await _next_stream(session)
                    if stream is None:
                        break
                    group.create_task(self._serve(label, stream))
        finally:
            await session.close()

    async def _serve(self, label: str, stream: Stream) -> None:
        try:
            if label != "input":
                raise ProtocolViolation("InputRefused", "a store opens streams for inputs only", party="store")
            async with self._turn:
                await self._receive(stream)
            await _last_word(stream, {"ok": 1})
        except Terminal as error:
            await self._refuse(stream, error)
        except (VeilpodError, OSError, EOFError, TimeoutError) as error:
            log.info("inputs.broken", extra={"reason": type(error).__name__})
        finally:
            self._changed.set()
            with contextlib.suppress(VeilpodError, OSError):
                await stream.close()

    async def _refuse(self, stream: Stream, error: Terminal) -> None:
        # One bad input is the end: the specification names each by digest, so a sender that brings another has nothing better.
        log.warning("inputs.refused", extra={"reason": error.reason})
        try:
            with contextlib.suppress(VeilpodError, OSError, TimeoutError):
                await _last_word(stream, {"error": "InputRefused"})
        finally:
            self._refusal = self._refusal or Refused("InputRefused", f"an input was refused: {error}")  # ends every meeting

    async def _receive(self, stream: Stream) -> None:
        item = self._wanted(await _read(stream))
        statement = self._identity.statement
        await stream.write(
            json_frame(
                {
                    "statement": statement.document(),
                    "signature": to_hex(self._identity.signature),
                    "serverSignature": to_hex(self._server_signature),
                },
                limit=_MESSAGE_LIMIT,
            )
        )
        grant = self._granted(await _read(stream), item)
        pieces = await _read_object(stream, item)
        self._received += 1
        self._progress(self._received, self._verified)

        # Everything is checked: open it.
        data_key = open_grant(grant, self._identity.encryption)
        try:
            await asyncio.to_thread(_open_into, self._root, item.path, pieces, data_key)
        except OSError as error:
            # A path below another input's file, or more plaintext than the volume may hold: the specification cannot be honoured.
            raise Refused("InputRefused", "an input has no place in the sandbox's volume") from error
        self._missing.remove(item)
        self._verified += 1
        self._progress(self._received, self._verified)
        log.info("inputs.verified", extra={"verified": self._verified, "total": self.total})

    def _wanted(self, hello: dict[str, Any]) -> Input:
        fields = Fields(hello, what="hello", party="store")
        task, dataset = fields.data("taskId", 32), fields.text("dataset")
        resource = ResourceId(fields.data("resource", 32))
        version = fields.integer("hello")
        fields.done()
        found = [item for item in self._missing if (item.resource, item.dataset) == (resource, dataset)]
        if version != 1 or task != self._task or not found:
            raise ProtocolViolation("InputRefused", "this input is not awaited here", party="store")
        return found[0]

    def _granted(self, message: dict[str, Any], item: Input) -> Grant:
        if "refused" in message:
            raise Refused("InputRefused", "the data owner refuses this sandbox")
        fields = Fields(message, what="grant message", party="store")
        grant = parse_grant(fields.take("grant"))
        fields.done()
        signers = {item.owner} | ({self._custodians[item.node]} if item.node in self._custodians else set())
        verify_grant(grant, statement=self._identity.statement, resource=item.resource, digest=item.digest, signers=signers)
        return grant


async def _next_stream(session: Session) -> tuple[str, Stream | None]:
    try:
        return await session.accept_stream()
    except VeilpodError:
        return "", None  # the session is over


async def _last_word(stream: Stream, answer: dict[str, Any]) -> None:
    """Answer, and keep the stream until the store has read it and closes the session: what is under way dies with a circuit."""
    async with asyncio.timeout(_GOODBYE_SECONDS):
        await stream.write(json_frame(answer, limit=_MESSAGE_LIMIT))
        await stream.write_eof()
        await stream.read(1)


async def _read(stream: Stream) -> dict[str, Any]:
    async with asyncio.timeout(_ANSWER_SECONDS):
        return await read_json_frame(stream, limit=_MESSAGE_LIMIT, party="store")


async def _read_object(stream: Stream, item: Input) -> collections.deque[bytes]:
    """The sealed bytes, complete and of the digest that the specification names."""
    pieces: collections.deque[bytes] = collections.deque()
    hasher = hashlib.sha256()
    left = item.size
    while left > 0:
        async with asyncio.timeout(_IDLE_SECONDS):
            piece = await stream.read(min(left, _PIECE))
        if not piece:
            raise EOFError("the object was cut off")
        hasher.update(piece)
        pieces.append(piece)
        left -= len(piece)
    if hasher.digest() != item.digest:
        raise ProtocolViolation("InputRefused", "the object is not the one that the specification names", party="store")
    return pieces


def _open_into(root: pathlib.Path, path: str, pieces: collections.deque[bytes], data_key: bytes) -> None:
    opener, file = Opener(data_key), InputFile(root, path)
    try:
        while pieces:
            file.write(opener.feed(pieces.popleft()))
        file.write(opener.finish())
    except BaseException:
        file.discard()
        raise
    file.publish()
