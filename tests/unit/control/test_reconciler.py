"""Outcomes become "when again", and one key's defect is nobody else's business."""

import asyncio
import logging

import pytest

from veilpod.control.metrics import Metrics
from veilpod.control.queue import KeyedQueue
from veilpod.control.reconciler import Reconciler
from veilpod.control.role import Key
from veilpod.control.tasks import Tasks
from veilpod.errors import ChainUnavailable, Refused, VeilpodError


class Role:
    name = "role"
    kinds = ("k",)

    def __init__(self, outcomes):
        self.outcomes, self.seen = list(outcomes), []

    async def reconcile(self, key):
        self.seen.append(key.name)
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def work(role, keys, until):
    queue = KeyedQueue(jitter=lambda pause: pause)
    worker = asyncio.create_task(Reconciler(queue, {"k": role}, Metrics()).work())
    try:
        for key in keys:
            queue.add(Key(kind="k", name=key))
        async with asyncio.timeout(5):
            while not until():  # noqa: ASYNC110 - what is waited for is plain data
                await asyncio.sleep(0.005)
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
    return queue


async def test_a_transient_failure_comes_again_soon():
    role = Role([ChainUnavailable("down")])
    await work(role, ["a"], lambda: len(role.seen) == 2)


async def test_a_role_may_ask_to_look_again():
    role = Role([0.01])
    await work(role, ["a"], lambda: len(role.seen) == 2)


@pytest.mark.parametrize("failure", [Refused("No", "no"), RuntimeError("a defect")])
async def test_a_refusal_or_a_defect_does_not_stop_other_keys(failure, caplog):
    caplog.set_level(logging.CRITICAL)
    role = Role([failure])
    await work(role, ["a", "b"], lambda: role.seen == ["a", "b"])


async def test_background_work_is_restarted_and_a_defect_is_told():
    runs = []

    async def flaky():
        runs.append(1)
        if len(runs) == 1:
            raise ChainUnavailable("down")
        if len(runs) == 2:
            raise ZeroDivisionError

    async with Tasks() as tasks:
        tasks.start("flaky", flaky)
        with pytest.raises(ZeroDivisionError):
            async with asyncio.timeout(5):
                await tasks.wait_failed()
    assert len(runs) == 2


async def test_background_work_ends_for_good_with_an_error_named_fatal():
    async def refused():
        raise Refused("WrongChain", "another chain")

    async with Tasks() as tasks:
        tasks.start("run", refused, fatal=(Refused,))
        with pytest.raises(VeilpodError):
            async with asyncio.timeout(5):
                await tasks.wait_failed()


async def test_leaving_the_group_cancels_what_still_runs():
    ended = []

    async def forever():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(1)

    async with Tasks() as tasks:
        tasks.start("forever", forever)
        await asyncio.sleep(0)
    assert ended == [1]
