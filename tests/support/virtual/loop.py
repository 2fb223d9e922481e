"""An asyncio event loop whose clock is virtual: it jumps to the next moment at which something is to happen."""

import asyncio
import selectors
from typing import Any


class NothingLeft(Exception):
    """Everybody waits for somebody, for ever."""


class VirtualLoop(asyncio.BaseEventLoop):
    """asyncio's own loop, with a selector that never waits and has no files."""

    _selector: Any

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._selector = self

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._now

    def end_tasks(self) -> None:
        """Cancel every task and wait for it."""

        async def wait() -> None:
            await asyncio.gather(*left, return_exceptions=True)

        left = asyncio.all_tasks(self)
        for task in left:
            task.cancel()
        self.run_until_complete(wait())

    def select(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        """What BaseEventLoop asks of its selector: pass the time until the next timer."""
        if timeout is None:
            raise NothingLeft
        self._now += max(timeout, 0.0)
        return []

    def _process_events(self, events: list[Any]) -> None: ...
    def _write_to_self(self) -> None: ...
