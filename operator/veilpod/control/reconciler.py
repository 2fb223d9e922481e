"""Workers between the queue and the roles: one key at a time each, every outcome mapped to "when again".

success      -> the seconds that the role asked for, or not until something happens
Transient    -> back-off (at least what the error asks for)
Terminal     -> back-off too: the condition and an Event say what a person must do, and the next look may find it done
anything else is a defect: logged with its trace, backed off, and counted; it never ends the process or another key's work
"""

import asyncio
import logging
from collections.abc import Mapping

from veilpod.control.metrics import Metrics
from veilpod.control.queue import KeyedQueue
from veilpod.control.role import Key, Role
from veilpod.errors import Terminal, Transient

log = logging.getLogger(__name__)
RECONCILE_SECONDS = 300.0  # a transaction at depth is the longest thing that a reconciliation waits for


class Reconciler:
    """Takes keys from the queue to the role that owns their kind."""

    def __init__(self, queue: KeyedQueue, roles: Mapping[str, Role], metrics: Metrics) -> None:
        self._queue, self._roles, self._metrics = queue, roles, metrics

    async def work(self) -> None:
        """One worker, for ever."""
        while True:
            key = await self._queue.get()
            try:
                await self._reconcile(key)
            except asyncio.CancelledError:
                self._queue.failed(key)
                raise

    async def _reconcile(self, key: Key) -> None:
        with self._metrics.reconciles.labels(key.kind).time():
            try:
                async with asyncio.timeout(RECONCILE_SECONDS):
                    again = await self._roles[key.kind].reconcile(key)
            except Transient as error:
                self._retry(key, type(error).__name__, at_least=error.retry_after)
                log.info("reconcile.retry", extra={"kind": key.kind, "object": key.name, "error": type(error).__name__, "why": str(error)})
            except Terminal as error:
                self._retry(key, error.reason, at_least=30)
                log.warning("reconcile.refused", extra={"kind": key.kind, "object": key.name, "reason": error.reason, "why": str(error)})
            except TimeoutError:
                self._retry(key, "TimeoutError")
                log.warning("reconcile.timeout", extra={"kind": key.kind, "object": key.name})
            except Exception:  # a defect in one reconciliation must not end the others
                self._retry(key, "Defect", at_least=10)
                log.exception("reconcile.defect", extra={"kind": key.kind, "object": key.name})
            else:
                self._queue.done(key, again_after=again)

    def _retry(self, key: Key, reason: str, *, at_least: float | None = None) -> None:
        self._metrics.retries.labels(key.kind, reason).inc()
        self._queue.failed(key, at_least=at_least)
