"""Lanes are given to one task at a time, and a request that was sent is remembered over a restart."""

import pathlib

import pytest

from veilpod.control.attempts import Attempts
from veilpod.core.ids import TaskId
from veilpod.errors import ChainUnavailable, Transient

ONE, TWO, THREE = (TaskId(bytes([number]) * 32) for number in (1, 2, 3))


def over(*tasks: TaskId):
    async def is_over(task: TaskId, until: int) -> bool:
        return task in tasks

    return is_over


async def test_tasks_side_by_side_have_different_lanes_and_the_next_one_takes_the_lowest_that_is_free(tmp_path: pathlib.Path) -> None:
    attempts = Attempts(tmp_path)
    assert [await attempts.lane(task, over()) for task in (ONE, TWO, ONE)] == [0, 1, 0]
    attempts.note(ONE, 100)
    attempts.note(TWO, 100)
    assert await attempts.lane(THREE, over(ONE)) == 0


async def test_a_lane_is_kept_over_a_restart_and_after_its_object_is_gone(tmp_path: pathlib.Path) -> None:
    attempts = Attempts(tmp_path)
    await attempts.lane(ONE, over())
    attempts.note(ONE, 100)
    attempts.forget(ONE)
    attempts = Attempts(tmp_path)
    assert attempts.until(ONE) == 100
    assert await attempts.lane(TWO, over()) == 1, "its channels are not closed"
    assert await attempts.lane(THREE, over(ONE)) == 0
    assert Attempts(tmp_path).until(ONE) is None


async def test_what_was_never_requested_holds_nothing_once_it_is_gone(tmp_path: pathlib.Path) -> None:
    attempts = Attempts(tmp_path)
    await attempts.lane(ONE, over())
    attempts.forget(ONE)
    attempts.forget(TWO)
    assert await attempts.lane(TWO, over()) == 0


async def test_a_chain_that_does_not_answer_frees_nothing(tmp_path: pathlib.Path) -> None:
    async def unanswered(task: TaskId, until: int) -> bool:
        raise ChainUnavailable("no")

    attempts = Attempts(tmp_path)
    await attempts.lane(ONE, over())
    attempts.note(ONE, 100)
    with pytest.raises(ChainUnavailable):
        await attempts.lane(TWO, unanswered)
    assert await attempts.lane(TWO, over()) == 1


async def test_a_request_whose_lane_was_given_back_meanwhile_is_made_again_in_another(tmp_path: pathlib.Path) -> None:
    attempts = Attempts(tmp_path)
    await attempts.lane(ONE, over())
    attempts.note(ONE, 100)
    assert await attempts.lane(TWO, over(ONE)) == 0, "the first request is void"
    with pytest.raises(Transient):
        attempts.note(ONE, 200)
    assert await attempts.lane(ONE, over()) == 1
    attempts.note(ONE, 200)
    assert attempts.until(ONE) == 200
