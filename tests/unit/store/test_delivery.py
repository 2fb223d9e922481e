"""A delivery that cannot begin yet. What is said in a meeting is tested over real relays: test_storage_deliveries."""

import asyncio
import contextlib
import hashlib
import pathlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from veilpod.core.ids import NodeId, ResourceId, ServerIndex, TaskId
from veilpod.core.store_messages import DeliveryObject, DeliveryOrder, SandboxRef
from veilpod.errors import CircuitFailed, PeerUnavailable, Refused
from veilpod.store.blobs import Blobs
from veilpod.store.delivery import Deliveries

OBJECT = b"sealed"
SANDBOX = SandboxRef(task=TaskId(b"\x11" * 32), index=ServerIndex(0))


class LonelyOnion:
    """A network without enough relays."""

    def __init__(self) -> None:
        self.asked = 0

    async def connect(self, **_: Any) -> Any:
        self.asked += 1
        raise Refused("NoDiversePath", "too few relays")


def order(*, seconds: int) -> DeliveryOrder:
    item = DeliveryObject(resource=ResourceId(b"\x02" * 32), dataset="north", digest=hashlib.sha256(OBJECT).digest(), size=len(OBJECT))
    return DeliveryOrder(
        sandbox=SANDBOX,
        objects=(item,),
        statement=b"\x03" * 32,
        relay=NodeId(1),
        cookie=b"c" * 20,
        service_key=b"s" * 32,
        hops=3,
        in_cluster=False,
        constant_rate=0,
        seconds=seconds,
    )


@contextlib.asynccontextmanager
async def deliveries(directory: pathlib.Path, onion: LonelyOnion) -> AsyncIterator[tuple[Deliveries, asyncio.Queue[str], Blobs]]:
    events: asyncio.Queue[str] = asyncio.Queue()

    def emit(event: str, data: Mapping[str, Any]) -> None:
        events.put_nowait(f"{event} {data.get('code', '')}".strip())

    blobs = Blobs(directory, quota=1 << 20)
    made = Deliveries(blobs, onion=lambda order: onion, emit=emit)  # type: ignore[arg-type,return-value]
    running = asyncio.create_task(made.run())
    await asyncio.sleep(0)
    try:
        yield made, events, blobs
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def store(blobs: Blobs) -> None:
    digest = hashlib.sha256(OBJECT).digest()
    blobs.announce(digest, len(OBJECT))

    async def read(limit: int) -> bytes:
        return OBJECT

    await blobs.put(digest, len(OBJECT), read)


async def test_an_order_for_bytes_that_are_not_here_is_refused_and_can_be_repeated(tmp_path: pathlib.Path) -> None:
    async with deliveries(tmp_path, LonelyOnion()) as (made, _, blobs):
        with pytest.raises(Refused) as refused:
            made.deliver(order(seconds=60))
        assert refused.value.reason == "NotStored"
        await store(blobs)
        assert made.deliver(order(seconds=60)) == "running"


async def test_too_few_relays_are_waited_for_until_the_time_is_over(tmp_path: pathlib.Path) -> None:
    onion = LonelyOnion()
    async with deliveries(tmp_path, onion) as (made, events, blobs):
        await store(blobs)
        made.deliver(order(seconds=1))
        async with asyncio.timeout(10):
            assert await events.get() == "delivery-failed NoDiversePath"
        assert onion.asked >= 2
        assert made.deliver(order(seconds=1)) == "NoDiversePath"


async def test_a_cookie_that_nobody_left_is_no_trouble_with_relays(tmp_path: pathlib.Path) -> None:
    class Alone(LonelyOnion):
        async def connect(self, **_: Any) -> Any:
            self.asked += 1
            if self.asked == 1:
                raise CircuitFailed("a relay did not answer in time")
            raise PeerUnavailable("nobody waits at the meeting relay under this cookie")

    async with deliveries(tmp_path, Alone()) as (made, events, blobs):
        await store(blobs)
        made.deliver(order(seconds=1))
        async with asyncio.timeout(10):
            assert await events.get() == "delivery-failed InputTimeout"


async def test_a_forgotten_task_ends_its_deliveries_and_may_be_ordered_again(tmp_path: pathlib.Path) -> None:
    async with deliveries(tmp_path, LonelyOnion()) as (made, _, blobs):
        await store(blobs)
        made.deliver(order(seconds=60))
        assert made.active == 1
        made.forget(SANDBOX.task)
        assert made.active == 0
        assert made.deliver(order(seconds=60)) == "running"
