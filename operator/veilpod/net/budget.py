"""Bounds on all links of a process together: what they may hold in their queues, and how many bytes a second they may bring in.

Over a bound nobody is read until there is room again. Windows bound each circuit and the links' stall timeout bounds how long a peer may
take nothing, so a full budget empties by itself; it is never a reason to drop a cell. Paper step 5.
"""

import asyncio
from typing import Protocol


class Reader(Protocol):
    """A link, as the budget sees it."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Budget:
    """Bytes queued by, and brought in over, all links that joined.

    `rate` is in bytes a second, 0 for no bound; `burst` is what may come at once after a pause, 0 for one second's worth.
    """

    def __init__(self, limit: int = 256 << 20, *, rate: int = 0, burst: int = 0) -> None:
        self.used = 0
        self.rate, self.burst = rate, burst or rate
        self._limit = limit
        self._links: dict[Reader, None] = {}  # in the order in which they came
        self._full = False
        self._tokens = float(self.burst)
        self._refilled = 0.0
        self._pause: asyncio.TimerHandle | None = None

    def bound(self, *, rate: int, burst: int = 0) -> None:
        """Change the rate. What came in over the old one is made up for at the new one."""
        burst = burst or rate
        if (rate, burst) == (self.rate, self.burst):
            return
        self.rate, self.burst = rate, burst
        if self._pause is not None:
            # It was reckoned by the old rate, and may be minutes.
            self._pause.cancel()
            self._refill()

    @property
    def _held(self) -> bool:
        return self._full or self._pause is not None

    def join(self, link: Reader) -> None:
        """A link is up."""
        self._links[link] = None
        if self._held:
            link.pause_reading()

    def leave(self, link: Reader, held: int) -> None:
        """A link is gone, with what it held."""
        self._links.pop(link, None)
        self.give(held)

    def take(self, size: int) -> None:
        """Bytes were queued."""
        self.used += size
        if self.used > self._limit and not self._full:
            self._full = True
            self._hold()

    def give(self, size: int) -> None:
        """Bytes were sent or forgotten."""
        self.used -= size
        if self._full and self.used <= self._limit // 2:
            self._full = False
            self._release()

    def received(self, size: int) -> None:
        """Bytes came in: over the rate, everybody waits until a tenth of a second's worth, or the burst, is there again."""
        if not self.rate:
            return
        now = asyncio.get_running_loop().time()
        self._tokens = min(self.burst, self._tokens + (now - self._refilled) * self.rate) - size
        self._refilled = now
        if self._tokens < 0 and self._pause is None:
            wait = (min(self.rate / 10, self.burst) - self._tokens) / self.rate
            self._pause = asyncio.get_running_loop().call_later(wait, self._refill)
            self._hold()

    def _refill(self) -> None:
        self._pause = None
        self._release()

    def _hold(self) -> None:
        for link in self._links:
            link.pause_reading()

    def _release(self) -> None:
        if not self._held:
            for link in self._links:
                link.resume_reading()
