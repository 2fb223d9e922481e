"""Kubernetes Events for people: one per state change, of the two types that exist, without places, names of peers or payloads.

Events are a courtesy. Failing to write one is logged and never changes what the operator does.
"""

import collections
import datetime
import logging
from collections.abc import Callable, Mapping
from typing import Any

from veilpod.core.kinds import EVENTS
from veilpod.errors import VeilpodError
from veilpod.ports import Cluster

log = logging.getLogger(__name__)
_REMEMBERED = 1000


class EventRecorder:
    """Writes events.k8s.io/v1 Events. The same event about the same object is written once per process."""

    def __init__(self, cluster: Cluster, *, instance: str, clock: Callable[[], float]) -> None:
        self._cluster, self._instance, self._clock = cluster, instance, clock
        self._seen: collections.OrderedDict[tuple[str, ...], None] = collections.OrderedDict()

    async def normal(self, regarding: Mapping[str, Any], *, reason: str, note: str, action: str = "Reconcile") -> None:
        """Tell that something went as it should."""
        await self._emit(regarding, "Normal", reason, note, action)

    async def warning(self, regarding: Mapping[str, Any], *, reason: str, note: str, action: str = "Reconcile") -> None:
        """Tell that a person may have to act; the note says how."""
        await self._emit(regarding, "Warning", reason, note, action)

    async def _emit(self, regarding: Mapping[str, Any], kind: str, reason: str, note: str, action: str) -> None:
        metadata = regarding["metadata"]
        mark = (metadata.get("uid", ""), kind, reason, note)
        if mark in self._seen:
            return
        self._seen[mark] = None
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        now = self._clock()
        body = {
            "metadata": {"name": f"{metadata['name']}.{int(now * 1e6):x}", "namespace": metadata["namespace"]},
            "eventTime": datetime.datetime.fromtimestamp(now, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": "veilpod.dev/operator",
            "reportingInstance": self._instance,
            "action": action,
            "reason": reason,
            "note": note[:1000],
            "type": kind,
            "regarding": {
                "apiVersion": regarding.get("apiVersion", ""),
                "kind": regarding.get("kind", ""),
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata.get("uid", ""),
            },
        }
        try:
            await self._cluster.create(EVENTS, body, namespace=metadata["namespace"], exists_ok=True)
        except VeilpodError as error:
            log.warning("event.lost", extra={"reason": reason, "error": type(error).__name__})
