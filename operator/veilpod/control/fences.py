"""Whether the fences around this release's sandboxes stand: one look every few seconds for all assignments together.

A poll and not a watch: the operator may read a dozen objects by their names and list nothing, so it would need a dozen watches, each of
which can hang for minutes without a word. A look is a dozen small GETs while a sandbox lives, and none while there is none.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from veilpod.control.context import Context
from veilpod.control.policies import observe_policies
from veilpod.control.recent import Recent
from veilpod.core.task.snapshot import Policies
from veilpod.errors import Transient

log = logging.getLogger(__name__)
LOOK_SECONDS = 3.0
_GOOD_SECONDS = 2.0  # for a burst of looks at many assignments


class Fences:
    """What stands, for classes that deny host access and for those that do not."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._recent: Recent[Policies] = Recent(_GOOD_SECONDS)
        self._last: dict[bool, Policies] = {}

    async def get(self, *, deny_host_access: bool) -> Policies:
        """The fences as they were seen a moment ago. Raises Transient: not seen is not missing."""
        seen = await self._recent.get(deny_host_access, lambda: observe_policies(self._context, deny_host_access=deny_host_access))
        self._last.setdefault(deny_host_access, seen)
        return seen

    async def watch(self, living: Callable[[], Sequence[str]], wake: Callable[[str], None]) -> None:
        """Look, for ever, while there is something to protect; wake every assignment when something changed."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            names = living()
            if not names:
                continue
            try:
                changed = [deny for deny in list(self._last) if await self._changed(deny)]
            except Transient:
                continue  # not seen: each assignment says so itself when it is looked at
            if changed:
                log.warning("fences.changed", extra={"assignments": len(names)})
                for name in names:
                    wake(name)

    async def _changed(self, deny: bool) -> bool:
        before = self._last[deny]
        now = await self._recent.renew(deny, lambda: observe_policies(self._context, deny_host_access=deny))
        self._last[deny] = now
        return now != before
