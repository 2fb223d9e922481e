"""The one place through which every effect of a decision passes: a task's, an assignment's, a channel's.

What an effect does is its role's business (`act`); here it is done, then counted and said. An operator may die before, amid or after it:
the next one observes and decides again (`make chaos` kills it around each of them).
"""

import logging
from collections.abc import Awaitable, Callable

from veilpod.control.context import Context
from veilpod.core.kinds import Kind
from veilpod.core.task.plan import Effect

log = logging.getLogger(__name__)
Act = Callable[[], Awaitable[None]]


async def perform(context: Context, kind: Kind, name: str, effect: Effect, act: Act) -> None:
    """Do one effect that was decided for an object. Raises what `act` raises; then nothing is counted."""
    await act()
    context.metrics.effects.labels(type(effect).__name__).inc()
    log.info("effect.done", extra={"effect": type(effect).__name__, "kind": kind.name, "object": name})
