"""Delivery of a sealed data set into a sandbox, over a rendezvous that hides both ends (paper step 5, "sandbox location obfuscation").

The store decides nothing about access: it shows the sandbox's statement to its operator, which compares it with the chain and the
owner's policy and answers with a grant or a refusal. What the store checks itself is that the sandbox it met is the one on chain, so
that nobody who found a cookie is even told what a grant looks like. It holds no data key; the object passes as it rests.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from veilpod.core.grant import Grant
from veilpod.core.ids import TaskId
from veilpod.core.statement import parse_statement, verify_statement
from veilpod.core.store_messages import DeliveryKey, DeliveryOrder, GrantWanted, parse_grant_wanted
from veilpod.errors import CircuitFailed, ProtocolViolation, Refused, Terminal, Transient
from veilpod.net.framing import json_frame, read_json_frame
from veilpod.ports import Onion, Session, Stream
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

    def __init__(self, blobs: Blobs, *, onion: Callable[[int, bool], Onion], emit: Emit) -> None:
        self._blobs, self._onion, self._emit = blobs, onion, emit
        self._running: dict[DeliveryKey, asyncio.Task[None]] = {}
        self._outcomes: dict[DeliveryKey, str] = {}
        self._grants: dict[DeliveryKey, asyncio.Future[Grant]] = {}
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
        """Start an order; "running", "delivered" or the failure's code when it was given before."""
        if order.key not in self._outcomes:
            if not self._blobs.has(order.digest):
                raise Refused("NotStored", "the object was never uploaded: `veilpod dataset put`")
            self._outcomes[order.key] = "running"
            self._running[order.key] = self._group.create_task(self._run(order))
        return self._outcomes[order.key]

    def grant(self, key: DeliveryKey, grant: Grant) -> None:
        """Go on with a delivery that wants a grant. Nothing happens when it does not (any more)."""
        waiting = self._grants.get(key)
        if waiting is not None and not waiting.done():
            waiting.set_result(grant)

    def refuse(self, key: DeliveryKey, code: str) -> None:
        """End a delivery that wants a grant: the operator gives none."""
        waiting = self._grants.get(key)
        if waiting is not None and not waiting.done():
            waiting.set_exception(Refused(code, "the operator gives no grant"))

    def forget(self, task: TaskId) -> None:
        """End and forget everything about a task."""
        for key in [key for key in self._outcomes if key.task == task]:
            del self._outcomes[key]
            if running := self._running.pop(key, None):
                running.cancel()

    async def _run(self, order: DeliveryOrder) -> None:
        code = "delivered"
        try:
            async with self._places, asyncio.timeout(order.seconds):
                await self._until_delivered(order)
        except TimeoutError:
            code = "InputTimeout"
        except Terminal as error:
            code = error.reason
        self._running.pop(order.key, None)
        self._outcomes[order.key] = code
        if code == "delivered":
            self._emit("delivered", order.key.document())
        else:
            self._emit("delivery-failed", {**order.key.document(), "code": code})
        log.info("delivery.ended", extra={"code": code})

    async def _until_delivered(self, order: DeliveryOrder) -> None:
        attempt = 0
        while True:
            try:
                return await self._once(order)
            except (Transient, EOFError, OSError) as error:
                log.info("delivery.retry", extra={"reason": type(error).__name__})
            await asyncio.sleep(_BACKOFF[min(attempt, len(_BACKOFF) - 1)])
            attempt += 1

    async def _once(self, order: DeliveryOrder) -> None:
        session = await self._onion(order.hops, order.in_cluster).connect(
            relay=order.relay, cookie=order.cookie, service_key=order.service_key
        )
        try:
            stream = await _bounded(session.open_stream("input"), _ANSWER_SECONDS)
            await self._converse(order, session, stream)
        finally:
            await session.close()

    async def _converse(self, order: DeliveryOrder, session: Session, stream: Stream) -> None:
        # Who are you?
        key = order.key.document()
        await _say(stream, {"hello": 1, "taskId": key["taskId"], "dataset": order.dataset, "resource": key["resource"]})
        answer = await _bounded(read_json_frame(stream, limit=MESSAGE_LIMIT, party="agent"), _ANSWER_SECONDS)
        wanted = _check_statement(order, answer)

        # Is it allowed?
        grant = await self._granted(wanted)
        if grant.statement != order.statement or grant.digest != order.digest:
            raise ProtocolViolation("WrongGrant", "the operator's grant is for another sandbox or object", party="operator")
        await _say(stream, {"grant": grant.document()})

        # Here it is.
        async for piece in self._blobs.pieces(order.digest):
            await _bounded(stream.write(piece), _WRITE_SECONDS)
        verdict = await read_json_frame(stream, limit=MESSAGE_LIMIT, party="agent")
        if verdict.get("ok") != 1:
            code = verdict.get("error")
            raise Refused(
                code if isinstance(code, str) and code.isalnum() and len(code) < 64 else "InputRefused", "the sandbox refused the input"
            )

    async def _granted(self, wanted: GrantWanted) -> Grant:
        waiting = self._grants[wanted.key] = asyncio.get_running_loop().create_future()
        try:
            self._emit("grant-wanted", wanted.document())
            return await _bounded(waiting, _GRANT_SECONDS)
        finally:
            self._grants.pop(wanted.key, None)


def _check_statement(order: DeliveryOrder, answer: dict[str, Any]) -> GrantWanted:
    wanted = parse_grant_wanted({**order.key.document(), **answer})
    statement = parse_statement(wanted.statement, party="agent")
    if statement.task != order.key.task or statement.index != order.key.index or statement.digest != order.statement:
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
