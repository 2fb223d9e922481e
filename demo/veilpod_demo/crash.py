"""An operator that dies on purpose: `python3 -m veilpod_demo.crash --config FILE` is the operator, with crash points around its effects.

Only in the demo's images, and only where somebody writes this command into the Deployment. A crash point is a moment, a kind of object and
an effect: `before taskassignments CreatePod`. At each one that CRASH_POINTS names (a comma between two) the process kills itself the first
time it gets there; a marker on the operator's volume remembers that, so its successor gets further. Everything else is the product's code.
"""

import os
import pathlib
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Protocol

from veilpod.control import performing
from veilpod.control.context import Context
from veilpod.core.kinds import Kind
from veilpod.core.task.plan import Effect

MOMENTS = ("before", "after")
DIRECTORY = "crashes"  # in the operator's state directory
Due = Callable[[Context, str], bool]  # whether to die at a point, which is then done
Die = Callable[[Context], Awaitable[None]]  # does not return


class Perform(Protocol):
    """`performing.perform`."""

    async def __call__(self, context: Context, kind: Kind, name: str, effect: Effect, act: performing.Act) -> None: ...


def point(moment: str, kind: str, effect: str) -> str:
    """Name a crash point. `kind` is a plural."""
    return f"{moment} {kind} {effect}"


def dying(perform: Perform, due: Due, die: Die) -> Perform:
    """`perform`, but it dies at each point that is due."""

    async def at(context: Context, moment: str, kind: Kind, effect: Effect) -> None:
        here = point(moment, kind.plural, type(effect).__name__)
        if due(context, here):
            await die(context)

    async def wrapped(context: Context, kind: Kind, name: str, effect: Effect, act: performing.Act) -> None:
        async def between() -> None:
            await at(context, "before", kind, effect)
            await act()
            await at(context, "after", kind, effect)

        await perform(context, kind, name, effect, between)

    return wrapped


def first_time(state: pathlib.Path, here: str) -> bool:
    """Whether nobody has died at a point yet; now somebody has."""
    (state / DIRECTORY).mkdir(exist_ok=True)
    try:
        os.close(os.open(state / DIRECTORY / here, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return False
    return True


async def _die(_context: Context) -> None:
    # Not a signal: the first process of a container is spared those of its own. Like SIGKILL, this lets nothing of ours run any more.
    os._exit(128 + signal.SIGKILL)


def main() -> int:
    """Be the operator."""
    from veilpod.control.__main__ import main as operate

    points = frozenset(os.environ.get("CRASH_POINTS", "").split(","))
    performing.perform = dying(
        performing.perform, lambda context, here: here in points and first_time(context.config.state_dir, here), _die
    )
    return operate()


if __name__ == "__main__":
    sys.exit(main())
