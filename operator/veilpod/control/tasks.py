"""Background work with an owner: each task belongs to one group, is restarted with back-off when it fails, ends with the group."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from veilpod.errors import VeilpodError

log = logging.getLogger(__name__)
_FIRST, _LONGEST = 0.2, 30.0


class Tasks:
    """Owns background tasks. Use as an async context manager; leaving it cancels and awaits them all."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] | None = None

    async def __aenter__(self) -> "Tasks":
        self._failed = asyncio.get_running_loop().create_future()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def start(self, name: str, run: Callable[[], Awaitable[None]], *, fatal: tuple[type[VeilpodError], ...] = ()) -> asyncio.Task[None]:
        """Run until it returns, again after a VeilpodError that is not `fatal`. Any other error reaches `wait_failed`. Cancel to end it."""
        task = asyncio.create_task(self._supervise(name, run, fatal), name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def wait_failed(self) -> None:
        """Wait for the first defect in a background task and raise it; return when the group ends without one."""
        assert self._failed is not None
        await asyncio.shield(self._failed)

    async def close(self) -> None:
        """Cancel everything and wait until it is over."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._failed is not None and not self._failed.done():
            self._failed.set_result(None)
        elif self._failed is not None:
            self._failed.exception()  # known: it was logged, and raised to whoever waited

    async def _supervise(self, name: str, run: Callable[[], Awaitable[None]], fatal: tuple[type[VeilpodError], ...]) -> None:
        pause = _FIRST
        while True:
            started = asyncio.get_running_loop().time()
            try:
                return await run()
            except VeilpodError as error:
                if isinstance(error, fatal):
                    raise
                if asyncio.get_running_loop().time() - started > _LONGEST:
                    pause = _FIRST
                log.warning("background.retry", extra={"task": name, "error": type(error).__name__, "pause": round(pause, 1)})
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - jitter, not a secret
            pause = min(pause * 2, _LONGEST)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        if error and self._failed and not self._failed.done():
            log.error("background.defect", extra={"task": task.get_name(), "error": type(error).__name__}, exc_info=error)
            self._failed.set_exception(error)
