"""The keyed queue's guarantees."""

import asyncio

from veilpod.control.queue import FIRST_SECONDS, LONGEST_SECONDS, KeyedQueue
from veilpod.control.role import Key

A, B = Key(kind="k", name="a"), Key(kind="k", name="b")


def plain() -> KeyedQueue:
    return KeyedQueue(jitter=lambda pause: pause)


async def nothing_comes(queue: KeyedQueue, seconds: float = 0.05) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await queue.get()
    except TimeoutError:
        return True
    return False


async def test_a_key_added_twice_is_worked_on_once():
    queue = plain()
    queue.add(A)
    queue.add(A)
    assert await queue.get() == A
    queue.done(A)
    assert await nothing_comes(queue)


async def test_a_key_is_with_one_worker_and_an_add_meanwhile_is_remembered():
    queue = plain()
    queue.add(A)
    await queue.get()
    queue.add(A)
    assert await nothing_comes(queue)
    queue.done(A)
    assert await queue.get() == A


async def test_keys_come_in_the_order_in_which_they_were_added():
    queue = plain()
    queue.add(B)
    queue.add(A)
    assert [await queue.get(), await queue.get()] == [B, A]


async def test_a_waiting_worker_is_woken_by_an_add():
    queue = plain()
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add(A)
    assert await asyncio.wait_for(waiting, 1) == A


async def test_failures_back_off_twice_as_long_each_and_never_longer_than_the_limit():
    queue = plain()
    pauses = []
    for _ in range(16):
        queue.add(A)
        await queue.get()
        pauses.append(queue.failed(A))
    assert pauses[:4] == [FIRST_SECONDS * factor for factor in (1, 2, 4, 8)]
    assert pauses[-1] == LONGEST_SECONDS


async def test_success_forgives_earlier_failures():
    queue = plain()
    for _ in range(5):
        queue.add(A)
        await queue.get()
        queue.failed(A)
    queue.add(A)
    await queue.get()
    queue.done(A)
    queue.add(A)
    await queue.get()
    assert queue.failed(A) == FIRST_SECONDS


async def test_an_error_may_ask_for_a_longer_pause():
    queue = plain()
    queue.add(A)
    await queue.get()
    assert queue.failed(A, at_least=7) == 7


async def test_a_key_planned_for_later_comes_then_and_only_once():
    queue = plain()
    queue.add_after(A, 0.03)
    queue.add_after(A, 0.02)
    assert await asyncio.wait_for(queue.get(), 1) == A
    queue.done(A)
    assert await nothing_comes(queue)


async def test_an_add_beats_a_plan_and_cancels_it():
    queue = plain()
    queue.add_after(A, 0.05)
    queue.add(A)
    assert await queue.get() == A
    queue.done(A)
    assert await nothing_comes(queue, 0.1)


async def test_depth_and_age_are_told():
    queue = plain()
    queue.add(A)
    queue.add(B)
    assert queue.depth() == {"k": 2}
    await asyncio.sleep(0.02)
    assert queue.oldest() > 0
