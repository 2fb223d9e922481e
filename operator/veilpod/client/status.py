"""A ComputeTask's status as a person likes to read it. Pure: an object in, lines out."""

import datetime
from collections.abc import Sequence
from typing import Any

from veilpod.core.task.conditions import Type
from veilpod.core.task.remedies import remedy

_MARKS = {"True": "✓", "False": "·", "Unknown": "?"}
_NEGATIVE = frozenset({str(Type.FAILED)})
_QUIET = frozenset({str(Type.FAILED), str(Type.ATTESTED), str(Type.HOST_ACCESS_DENIED)})


def lines(body: dict[str, Any], *, now: datetime.datetime) -> list[str]:
    """The whole status: a headline, one line per condition, and what to do."""
    status, name = body.get("status", {}), body["metadata"]["name"]
    conditions = {item["type"]: item for item in status.get("conditions", [])}
    shown = [f"{name}   {status.get('phase', 'Pending')}" + (f"   task {status['taskId']}" if "taskId" in status else "")]
    if servers := status.get("servers"):
        shown.append("servers: " + ", ".join(f"{item['index']} {item['role']} (node {item['node']})" for item in servers))
    if not conditions:
        return [*shown, "", "nothing observed yet: is the requester's operator running in this namespace?"]
    shown += ["", *table([_row(conditions[kind], now) for kind in _ordered(conditions)])]
    return [*shown, *_advice(status, conditions)]


def done(body: dict[str, Any]) -> bool:
    """Whether nothing will change any more."""
    phase = body.get("status", {}).get("phase")
    return phase in ("Settled", "Failed")


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as they need to be."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def age(since: str, now: datetime.datetime) -> str:
    """How long ago an RFC 3339 time was, in one unit."""
    seconds = int((now - datetime.datetime.fromisoformat(since)).total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{max(0, seconds)}s"


def _row(item: dict[str, Any], now: datetime.datetime) -> list[str]:
    bad = item["type"] in _NEGATIVE and item["status"] == "True"
    reason = "" if item["reason"] == item["type"] else item["reason"]
    words = " — ".join(part for part in (reason, item.get("message", "")) if part)
    return ["  " + ("✗" if bad else _MARKS.get(item["status"], "?")), item["type"], age(item["lastTransitionTime"], now), words]


def _ordered(conditions: dict[str, Any]) -> list[str]:
    known = [str(kind) for kind in Type if str(kind) in conditions]
    visible = [kind for kind in known if kind not in _QUIET or conditions[kind]["status"] == "True"]
    return [*visible, *sorted(set(conditions) - set(known))]


def _advice(status: dict[str, Any], conditions: dict[str, Any]) -> list[str]:
    failure = status.get("failure")
    if failure:
        said = f"failed at {failure['stage']}: {failure['code']}"
        return ["", said, *([f"what to do: {remedy(failure['code'])}"] if remedy(failure["code"]) else [])]
    waiting = next((item for kind, item in conditions.items() if kind not in _QUIET and item["status"] != "True"), None)
    if waiting is None:
        return []
    advice = remedy(waiting["reason"])
    return ["", f"waiting for {waiting['type']}" + (f"; what to do: {advice}" if advice else "")]
