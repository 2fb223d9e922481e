"""A keyed work queue with client-go's guarantees: what makes "look again" cheap and safe.

A key is with one worker at most. Adding a key that waits changes nothing; adding one that is being worked on is remembered, and it
waits again when its worker is done. A failing key comes back after a back-off that grows from 0.1 s to 5 min, with jitter, and is
forgotten as soon as the key succeeds. Not persistent: at start every key is added again.
"""

import asyncio
import collections
import heapq
import random
from collections.abc import Callable

from veilpod.control.role import Key

FIRST_SECONDS = 0.1
LONGEST_SECONDS = 300.0


class KeyedQueue:
    """Belongs to one event loop. `jitter` maps a pause to the pause that is taken."""

    def __init__(self, *, jitter: Callable[[float], float] | None = None) -> None:
        self._jitter = jitter or (lambda pause: pause * random.uniform(0.8, 1.2))  # noqa: S311 - jitter, not a secret
        self._waiting: collections.OrderedDict[Key, float] = collections.OrderedDict()  # -> since when
        self._working: dict[Key, float] = {}
        self._again: set[Key] = set()
        self._failures: collections.Counter[Key] = collections.Counter()
        self._later: dict[Key, float] = {}
        self._alarms: list[tuple[float, Key]] = []
        self._changed = asyncio.Event()

    def add(self, key: Key) -> None:
        """Work on a key as soon as a worker is free."""
        self._later.pop(key, None)
        if key in self._working:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting[key] = self._now()
            self._changed.set()

    def add_after(self, key: Key, seconds: float) -> None:
        """Work on a key after so many seconds, unless something adds it earlier."""
        moment = self._now() + seconds
        if key in self._waiting or key in self._again or self._later.get(key, float("inf")) <= moment:
            return
        self._later[key] = moment
        heapq.heappush(self._alarms, (moment, key))
        self._changed.set()

    async def get(self) -> Key:
        """Wait for a key; it is ours until `done`."""
        while True:
            self._ring()
            if self._waiting:
                key, _ = self._waiting.popitem(last=False)
                self._working[key] = self._now()
                return key
            self._changed.clear()
            try:
                async with asyncio.timeout(max(self._alarms[0][0] - self._now(), 0) if self._alarms else None):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def done(self, key: Key, *, again_after: float | None = None) -> None:
        """Give a key back after success; its failures are forgotten."""
        self._failures.pop(key, None)
        self._finish(key, again_after)

    def failed(self, key: Key, *, at_least: float | None = None) -> float:
        """Give a key back after a failure. Returns after how many seconds it comes again."""
        self._failures[key] += 1
        pause = self._jitter(min(FIRST_SECONDS * 2 ** min(self._failures[key] - 1, 20), LONGEST_SECONDS))
        pause = max(pause, at_least or 0.0)
        self._finish(key, pause)
        return pause

    def depth(self) -> collections.Counter[str]:
        """How many keys of each kind wait for a worker."""
        return collections.Counter(key.kind for key in self._waiting)

    def oldest(self) -> float:
        """For how many seconds the oldest key has been waiting or worked on."""
        since = [*self._waiting.values(), *self._working.values()]
        return self._now() - min(since) if since else 0.0

    def _finish(self, key: Key, again_after: float | None) -> None:
        del self._working[key]
        if key in self._again:
            self._again.discard(key)
            self.add(key)
        elif again_after is not None:
            self.add_after(key, again_after)

    def _ring(self) -> None:
        """Move the keys whose time has come to those that wait."""
        now = self._now()
        while self._alarms and self._alarms[0][0] <= now:
            moment, key = heapq.heappop(self._alarms)
            if self._later.get(key) == moment:  # otherwise it was added, or planned earlier, meanwhile
                self.add(key)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
