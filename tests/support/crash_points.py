"""Every place at which an operator can die around an effect, read from the rules; and whole releases that die there and live on."""

import ast
import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Callable, Iterable
from types import ModuleType
from typing import Any

import pytest
from demo.veilpod_demo import crash
from tests.support.operators import Release, World

from veilpod.control import performing
from veilpod.control.context import Context
from veilpod.core.kinds import COMPUTE_TASKS, STATE_CHANNELS, TASK_ASSIGNMENTS
from veilpod.core.task import decide, plan
from veilpod.errors import VeilpodError

Place = tuple[str, str]  # (plural of the kind, name of the effect)
RULES: dict[str, Callable[..., plan.Plan]] = {
    COMPUTE_TASKS.plural: decide.decide_task,
    TASK_ASSIGNMENTS.plural: decide.decide_assignment,
    STATE_CHANNELS.plural: decide.decide_channel,
}


def effects() -> frozenset[str]:
    """Every effect there is."""
    return frozenset(found.__name__ for found in plan.Effect.__subclasses__())


def places() -> frozenset[Place]:
    """Every effect that each rule can return: what its modules make."""
    return frozenset((kind, name) for kind, rule in RULES.items() for name in _made_by(rule))


def points(chosen: Iterable[Place]) -> frozenset[str]:
    """The crash points around these effects."""
    return frozenset(crash.point(moment, kind, effect) for kind, effect in chosen for moment in crash.MOMENTS)


def _made_by(rule: Callable[..., plan.Plan]) -> frozenset[str]:
    module = inspect.getmodule(rule)
    assert module is not None
    beside = [found for found in vars(module).values() if isinstance(found, ModuleType) and found.__package__ == module.__package__]
    sources = [inspect.getsource(each) for each in (module, *beside) if each is not plan]
    calls = [node.func for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return frozenset(call.attr for call in calls if isinstance(call, ast.Attribute)) & effects()


class Deaths:
    """Releases of a world that die at crash points: everything is lost but disk, chain and cluster, and another operator starts."""

    def __init__(self, world: World, wanted: frozenset[str]) -> None:
        self._releases = {release.name: release for release in (world.requester, *world.servers)}
        self._turns = {name: asyncio.Lock() for name in self._releases}
        self._world, self._wanted = world, wanted
        self._replaced: list[asyncio.Task[None]] = []

    async def die(self, context: Context) -> None:
        self._replaced.append(asyncio.create_task(self._replace(self._releases[context.config.namespace])))
        await asyncio.Event().wait()  # the process does nothing any more until it is gone

    def missing(self) -> list[str]:
        """Crash points at which nobody has died yet."""
        return sorted(self._wanted.difference(*(crash.died_at(release.config.state_dir) for release in self._releases.values())))

    async def skip(self, seconds: int) -> None:
        """Let time pass for everybody, and have everybody look who lives: who starts looks anyway."""
        await self._world.until(self._alive)
        await self._world.advance(seconds)
        for release in self._releases.values():
            if release.operator is not None:
                with contextlib.suppress(VeilpodError):
                    await release.resync()

    async def until(self, reached: Callable[[], Any], *, skipping: int) -> None:
        """Let time pass until something is reached: patience that an operator had is lost with it."""
        for _ in range(12):
            await self.skip(skipping)
            with contextlib.suppress(AssertionError):
                return await self._world.until(reached, timeout=4)
        raise AssertionError(f"not reached: {self._world.describe()}")

    async def over(self) -> None:
        """Wait for the last successor."""
        await asyncio.gather(*self._replaced)

    def _alive(self) -> bool:
        ready = all(release.operator is None or release.operator.ready() is None for release in self._releases.values())
        return ready and not any(turn.locked() for turn in self._turns.values())

    async def _replace(self, release: Release) -> None:
        async with self._turns[release.name]:
            await release.stop()
            await release.start()


@contextlib.asynccontextmanager
async def deadly(world: World, chosen: Iterable[Place], patch: pytest.MonkeyPatch) -> AsyncIterator[Deaths]:
    """Have every operator of a world die once before and once after each of these effects."""
    wanted = points(chosen)
    deaths = Deaths(world, wanted)
    with patch.context() as patched:
        patched.setattr(performing, "perform", crash.dying(performing.perform, wanted, deaths.die))
        try:
            yield deaths
        finally:
            await deaths.over()
