"""Delivery of a sealed data set into a sandbox, over a rendezvous that hides both ends (paper step 5, "sandbox location obfuscation").

The store decides nothing about access: it shows the sandbox's statement to its operator, which compares it with the chain and the
owner's policy and answers with a grant or a refusal. What the store checks itself is that the sandbox it met is the one on chain, so
that nobody who found a cookie is even told what a grant looks like. It holds no data key; the object passes as it rests.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from veilpod.core.canonical import to_hex
from veilpod.core.grant import Grant
from veilpod.core.ids import ResourceId, TaskId
from veilpod.core.onion.trouble import trouble_of
from veilpod.core.statement import parse_statement, verify_statement
from veilpod.core.store_messages import DeliveryObject, DeliveryOrder, GrantWanted, SandboxRef, parse_grant_wanted
from veilpod.errors import CircuitFailed, PeerUnavailable, ProtocolViolation, Refused, Terminal, Transient
from veilpod.net.framing import json_frame, read_json_frame
from veilpod.net.pauses import pauses
from veilpod.ports import Onion, Stream
from veilpod.store.blobs import Blobs

MESSAGE_LIMIT = 256 << 10
_ANSWER_SECONDS = 30.0  # for one message of the sandbox
_GRANT_SECONDS = 120.0
_WRITE_SECONDS = 60.0  # for one piece
_PARALLEL = 8
_BACKOFF = (0.5, 1.0, 2.0, 5.0, 10.0)

_T = TypeVar("_T")
Emit = Callable[[str, Mapping[str, Any]], object]

log = logging.getLogger(__name__)


class Deliveries:
    """Runs orders, a few at a time. `emit` tells the operator: `grant-wanted`, `delivered`, `delivery-failed`."""

    def __init__(self, blobs: Blobs, *, onion: Callable[[DeliveryOrder], Onion], emit: Emit) -> None:
        self._blobs, self._onion, self._emit = blobs, onion, emit
        self._running: dict[SandboxRef, asyncio.Task[None]] = {}
        self._outcomes: dict[SandboxRef, str] = {}
        self._arrived: dict[SandboxRef, set[ResourceId]] = {}
        self._troubles: dict[SandboxRef, str] = {}  # what keeps an order's circuit from being made
        self._grants: dict[tuple[SandboxRef, ResourceId], asyncio.Future[Grant]] = {}
        self._places = asyncio.Semaphore(_PARALLEL)
        self._group: asyncio.TaskGroup

    async def run(self) -> None:
        """Own the deliveries until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            await asyncio.get_running_loop().create_future()

    @property
    def active(self) -> int:
        """How many deliveries run or wait for their turn."""
        return len(self._running)

    def deliver(self, order: DeliveryOrder) -> str:
        """Start an order; "running", "delivered" or the failure's code when it was given before. Raises Refused("NotStored")."""
        if order.sandbox not in self._outcomes:
            if not all(self._blobs.has(item.digest) for item in order.objects):
                raise Refused("NotStored", "an object was never uploaded: `veilpod dataset put`")
            self._outcomes[order.sandbox] = "running"
            self._running[order.sandbox] = self._group.create_task(self._run(order))
        return self._outcomes[order.sandbox]

    def decide(self, sandbox: SandboxRef, resource: ResourceId, verdict: Grant | str) -> None:
        """Go on with, or end, a delivery that wants a grant. Nothing happens when it does not (any more)."""
        waiting = self._grants.get((sandbox, resource))
        if waiting is None or waiting.done():
            return
        if isinstance(verdict, str):
            waiting.set_exception(Refused(verdict, "the operator gives no grant"))
        else:
            waiting.set_result(verdict)

    def forget(self, task: TaskId) -> None:
        """End and forget everything about a task."""
        for sandbox in [sandbox for sandbox in self._outcomes if sandbox.task == task]:
            del self._outcomes[sandbox]
            self._arrived.pop(sandbox, None)
            self._troubles.pop(sandbox, None)
            if running := self._running.pop(sandbox, None):
                running.cancel()

    async def _run(self, order: DeliveryOrder) -> None:
        code = ""
        try:
            async with self._places, asyncio.timeout(order.seconds):
                await self._until_delivered(order)
        except TimeoutError:
            code = self._troubles.get(order.sandbox, "") or "InputTimeout"
        except Terminal as error:
            code = error.reason
        self._troubles.pop(order.sandbox, None)
        self._running.pop(order.sandbox, None)
        self._outcomes[order.sandbox] = code or "delivered"
        if code:
            self._emit("delivery-failed", {**order.sandbox.document(), "code": code})
        else:
            self._emit("delivered", order.sandbox.document())
        log.info("delivery.ended", extra={"code": code or "delivered"})

    async def _until_delivered(self, order: DeliveryOrder) -> None:
        for pause in pauses(*_BACKOFF):
            try:
                await self._meet(order)
                return
            except (Transient, EOFError, OSError) as error:
                log.info("delivery.retry", extra={"reason": type(error).__name__, "why": str(error)})
            await asyncio.sleep(pause)

    async def _meet(self, order: DeliveryOrder) -> None:
        arrived = self._arrived.setdefault(order.sandbox, set())
        proxy = self._onion(order)
        try:
            session = await proxy.connect(relay=order.relay, cookie=order.cookie, service_key=order.service_key)
        except (Refused, CircuitFailed) as error:
            # Too few relays of different owners is how it is now: the directory is renewed while there is time.
            self._troubles[order.sandbox] = trouble_of(error)
            raise CircuitFailed(str(error)) from error
        except PeerUnavailable:
            self._troubles.pop(order.sandbox, None)  # the circuit was made; nobody waits at its end
            raise
        self._troubles.pop(order.sandbox, None)
        try:
            for item in order.objects:
                if item.resource not in arrived:
                    stream = await _bounded(session.open_stream("input"), _ANSWER_SECONDS)
                    await self._converse(order, item, stream)
                    arrived.add(item.resource)
        finally:
            await session.close()

    async def _converse(self, order: DeliveryOrder, item: DeliveryObject, stream: Stream) -> None:
        # Who are you?
        await _say(stream, {"hello": 1, "taskId": to_hex(order.sandbox.task), "dataset": item.dataset, "resource": to_hex(item.resource)})
        answer = await _bounded(read_json_frame(stream, limit=MESSAGE_LIMIT, party="agent"), _ANSWER_SECONDS)
        wanted = _check_statement(order, item, answer)

        # Is it allowed?
        try:
            grant = await self._granted(wanted)
        except Refused as refused:
            await _say(stream, {"refused": refused.reason})
            raise
        if grant.statement != order.statement or grant.digest != item.digest:
            raise ProtocolViolation("WrongGrant", "the operator's grant is for another sandbox or object", party="operator")
        await _say(stream, {"grant": grant.document()})

        # Here it is.
        async for piece in self._blobs.pieces(item.digest):
            await _bounded(stream.write(piece), _WRITE_SECONDS)
        verdict = await read_json_frame(stream, limit=MESSAGE_LIMIT, party="agent")
        await stream.close()
        if verdict.get("ok") != 1:
            code = verdict.get("error")
            known = isinstance(code, str) and code.isalnum() and len(code) <= 64
            raise Refused(str(code) if known else "InputRefused", "the sandbox refused the input")

    async def _granted(self, wanted: GrantWanted) -> Grant:
        key = (wanted.sandbox, wanted.resource)
        waiting = self._grants[key] = asyncio.get_running_loop().create_future()
        try:
            self._emit("grant-wanted", wanted.document())
            return await _bounded(waiting, _GRANT_SECONDS)
        finally:
            self._grants.pop(key, None)


def _check_statement(order: DeliveryOrder, item: DeliveryObject, answer: dict[str, Any]) -> GrantWanted:
    wanted = parse_grant_wanted({**answer, **order.sandbox.document(), "resource": to_hex(item.resource)}, party="agent")
    statement = parse_statement(wanted.statement, party="agent")
    if SandboxRef(task=statement.task, index=statement.index) != order.sandbox or statement.digest != order.statement:
        raise ProtocolViolation("StatementRefused", "not the sandbox whose statement is on chain", party="agent")
    verify_statement(statement, wanted.signature, party="agent")
    return wanted


async def _say(stream: Stream, message: dict[str, Any]) -> None:
    await _bounded(stream.write(json_frame(message, limit=MESSAGE_LIMIT)), _WRITE_SECONDS)


async def _bounded(awaitable: Awaitable[_T], seconds: float) -> _T:
    try:
        async with asyncio.timeout(seconds):
            return await awaitable
    except TimeoutError as error:
        raise CircuitFailed("the other side of the rendezvous is silent") from error
