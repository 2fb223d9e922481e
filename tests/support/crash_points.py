"""Every place at which an operator can die around an effect, read from the rules; and whole releases that die there and live on."""

import ast
import asyncio
import contextlib
import contextvars
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from types import ModuleType
from typing import Any

import pytest
from demo.veilpod_demo import crash
from tests.support.fake_cluster import FakeCluster
from tests.support.operators import Release, World
from tests.support.scripted_agents import ScriptedLink

from veilpod.chain.rpc import Rpc
from veilpod.control import performing
from veilpod.control.context import Context
from veilpod.core.kinds import COMPUTE_TASKS, STATE_CHANNELS, TASK_ASSIGNMENTS, Kind
from veilpod.core.task import decide, plan
from veilpod.errors import VeilpodError
from veilpod.net.control import Link

Place = tuple[str, str]  # (plural of the kind, name of the effect)
RULES: dict[str, Callable[..., plan.Plan]] = {
    COMPUTE_TASKS.plural: decide.decide_task,
    TASK_ASSIGNMENTS.plural: decide.decide_assignment,
    STATE_CHANNELS.plural: decide.decide_channel,
}
# What changes the world outside an operator: the cluster, an agent, the mailbox, the chain.
CHANGES: tuple[tuple[type, str], ...] = (
    *((FakeCluster, name) for name in ("create", "delete", "set_finalizers")),
    (ScriptedLink, "call"),
    (Link, "call"),
    (Rpc, "call"),
)
_UNDER_WAY: contextvars.ContextVar[tuple[Context, str, str] | None] = contextvars.ContextVar("under_way", default=None)


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
        self._away: set[str] = set()
        self.happened: set[str] = set()  # where somebody has died

    async def amid(self, done: str) -> None:
        """An effect has changed the world and does not know it yet: die here, once for each kind of change."""
        if (under_way := _UNDER_WAY.get()) is not None:
            context, kind, effect = under_way
            if self._first_time(f"{crash.point('amid', kind, effect)} {done}"):
                await self.die(context)

    async def die(self, context: Context) -> None:
        release, nobodys = self._releases[context.config.namespace], contextvars.Context()
        self._replaced.append(asyncio.create_task(self._replace(release), context=nobodys))
        await asyncio.Event().wait()  # the process does nothing any more until it is gone

    def due(self, _context: Context, here: str) -> bool:
        """Whether whoever comes by a crash point is the first of all."""
        return here in self._wanted and self._first_time(here)

    def missing(self) -> list[str]:
        """Crash points at which nobody has died yet."""
        return sorted(self._wanted - self.happened)

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

    def _first_time(self, here: str) -> bool:
        before, self.happened = here in self.happened, self.happened | {here}
        return not before

    def _alive(self) -> bool:
        ready = all(release.operator is None or release.operator.ready() is None for release in self._releases.values())
        return ready and not any(turn.locked() for turn in self._turns.values())

    async def leave(self, release: Release) -> None:
        """Have a release's operator stay away, dead or alive."""
        async with self._turns[release.name]:
            self._away.add(release.name)
            await release.stop()

    async def come_back(self, release: Release) -> None:
        """Have it start again."""
        async with self._turns[release.name]:
            self._away.remove(release.name)
            await release.start()

    async def _replace(self, release: Release) -> None:
        async with self._turns[release.name]:
            await release.stop()
            if release.name not in self._away:
                await release.start()


@contextlib.asynccontextmanager
async def dying_around(world: World, chosen: Iterable[Place], patch: pytest.MonkeyPatch) -> AsyncIterator[Deaths]:
    """Have somebody die before and somebody after each of these effects: whoever comes by first."""
    deaths = Deaths(world, points(chosen))
    with patch.context() as patched:
        patched.setattr(performing, "perform", crash.dying(performing.perform, deaths.due, deaths.die))
        try:
            yield deaths
        finally:
            await deaths.over()


@contextlib.asynccontextmanager
async def dying_amid(world: World, patch: pytest.MonkeyPatch) -> AsyncIterator[Deaths]:
    """Have somebody die behind each kind of change that an effect makes in the world, before the effect knows."""
    deaths = Deaths(world, frozenset())
    with patch.context() as patched:
        patched.setattr(performing, "perform", _marked(performing.perform))
        for port, method in CHANGES:
            patched.setattr(port, method, _told(getattr(port, method), deaths.amid))
        try:
            yield deaths
        finally:
            await deaths.over()


def _marked(perform: crash.Perform) -> crash.Perform:
    """`perform`, and what it does can be told from what goes on beside it."""

    async def wrapped(context: Context, kind: Kind, name: str, effect: plan.Effect, act: performing.Act) -> None:
        before = _UNDER_WAY.set((context, kind.plural, type(effect).__name__))
        try:
            await perform(context, kind, name, effect, act)
        finally:
            _UNDER_WAY.reset(before)

    return wrapped


def _told(method: Callable[..., Any], tell: Callable[[str], Awaitable[None]]) -> Callable[..., Any]:
    async def wrapped(self: Any, *args: Any, **more: Any) -> Any:
        answer = await method(self, *args, **more)
        if not (method.__name__ == "call" and isinstance(self, Rpc) and args[0] != "eth_sendRawTransaction"):
            await tell(args[0] if method.__name__ == "call" else method.__name__)
        return answer

    return wrapped
