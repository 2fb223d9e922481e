"""Which changes of a status are written now, and which wait for the next."""

import dataclasses
from typing import Any

import pytest

from veilpod.control import status
from veilpod.control.drafts import Drafts
from veilpod.control.metrics import Metrics
from veilpod.core.kinds import COMPUTE_TASKS
from veilpod.core.task.conditions import Type, yes
from veilpod.core.task.facts import Failure
from veilpod.core.task.plan import Draft, Plan

AWAITED = (Type.KEY_PUBLISHED,)


@dataclasses.dataclass
class Written:
    """A cluster and a context as far as a status's writer needs them."""

    drafts: Drafts = dataclasses.field(default_factory=lambda: Drafts(seconds=3.0))
    metrics: Metrics = dataclasses.field(default_factory=Metrics)
    now: float = 1000.0
    body: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {"metadata": {"name": "task", "namespace": "us", "uid": "u1", "generation": 1}}
    )
    patches: int = 0

    @property
    def cluster(self) -> "Written":
        return self

    def clock(self) -> float:
        return self.now

    async def patch_status(self, kind: Any, name: str, changed: dict[str, Any], *, namespace: str) -> None:
        self.patches += 1
        self.body["status"] = self.body.get("status", {}) | changed

    async def write(self, *kinds: Type, failure: Failure | None = None, again: float | None = None) -> float | None:
        draft = Draft(failure=failure)
        for kind in kinds:
            draft.claim(kind, yes("So"))
        plan: Plan = dataclasses.replace(draft.plan(), requeue_after=again)
        return await status.write(self, COMPUTE_TASKS, self.body, plan, {}, at_once=AWAITED)  # type: ignore[arg-type]

    def true(self) -> list[str]:
        return [item["type"] for item in self.body.get("status", {}).get("conditions", ())]


async def test_a_change_that_nobody_waits_for_is_written_three_seconds_later_with_what_came_since():
    world = Written()
    assert await world.write(Type.REQUESTED) == 3.0
    world.now += 2.0
    assert await world.write(Type.REQUESTED, Type.SCHEDULED) == pytest.approx(1.0)
    assert world.patches == 0
    world.now += 1.0
    assert await world.write(Type.REQUESTED, Type.SCHEDULED) is None
    assert (world.patches, world.true()) == (1, ["Requested", "Scheduled"])


async def test_what_is_awaited_is_written_at_once_and_takes_the_waiting_along():
    world = Written()
    await world.write(Type.REQUESTED)
    await world.write(Type.REQUESTED, Type.KEY_PUBLISHED)
    assert (world.patches, world.true()) == (1, ["Requested", "KeyPublished"])
    world.now += 10.0
    assert await world.write(Type.REQUESTED, Type.KEY_PUBLISHED, Type.COMPUTED) == 3.0  # its own time, not that of the first


async def test_a_failure_is_written_at_once():
    world = Written()
    await world.write(Type.FAILED, failure=Failure(stage="KeyPublished", code="SandboxLost"))
    assert (world.patches, world.body["status"]["failure"]["code"]) == (1, "SandboxLost")


async def test_a_plan_that_wants_to_look_again_sooner_is_obeyed():
    world = Written()
    assert await world.write(Type.REQUESTED, again=1.0) == 1.0
    assert await world.write(Type.REQUESTED, again=60.0) == 3.0


async def test_a_change_that_was_taken_back_waits_for_nothing():
    world = Written()
    await world.write(Type.KEY_PUBLISHED)
    await world.write(Type.KEY_PUBLISHED, Type.COMPUTED)
    assert await world.write(Type.KEY_PUBLISHED) is None
    world.now += 10.0
    assert await world.write(Type.KEY_PUBLISHED, Type.COMPUTED) == 3.0
    assert world.patches == 1
