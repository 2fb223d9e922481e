"""A bound on what all links of a process may hold in their queues together. Over it nobody is read until half of it has drained.

Windows bound each circuit and the links' stall timeout bounds how long a peer may take nothing, so a full budget empties by itself; it is
never a reason to drop a cell. Paper step 5.
"""

from typing import Protocol


class Reader(Protocol):
    """A link, as the budget sees it."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Budget:
    """Bytes queued by all links that joined."""

    def __init__(self, limit: int = 256 << 20) -> None:
        self.used = 0
        self._limit = limit
        self._links: set[Reader] = set()
        self._paused = False

    def join(self, link: Reader) -> None:
        """A link is up."""
        self._links.add(link)
        if self._paused:
            link.pause_reading()

    def leave(self, link: Reader, held: int) -> None:
        """A link is gone, with what it held."""
        self._links.discard(link)
        self.give(held)

    def take(self, size: int) -> None:
        """Bytes were queued."""
        self.used += size
        if self.used > self._limit and not self._paused:
            self._paused = True
            for link in self._links:
                link.pause_reading()

    def give(self, size: int) -> None:
        """Bytes were sent or forgotten."""
        self.used -= size
        if self._paused and self.used <= self._limit // 2:
            self._paused = False
            for link in self._links:
                link.resume_reading()
