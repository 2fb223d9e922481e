"""The status of an OnionRelay: two conditions and a phase computed from them. Positive polarity; Unknown means that nobody could say.

- Registered: True `Listed`; False `Registering`, `Suspended`; Unknown `ChainUnavailable`.
- Ready: True `Serving`; False `PodPending`, `Draining`; Unknown `RelayUnavailable`.
"""

import dataclasses
import datetime
from collections.abc import Iterable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What is true of one condition now: status "True", "False" or "Unknown", and why."""

    status: str
    reason: str
    message: str = ""


def status_of(
    old: Mapping[str, Any], claims: Mapping[str, Claim], *, now: float, generation: int, node_id: int | None, key_epoch: int | None
) -> dict[str, Any]:
    """The new status: claimed conditions change, others stay, and lastTransitionTime moves only when a status does."""
    conditions = {item["type"]: dict(item) for item in old.get("conditions", ())}
    stamp = datetime.datetime.fromtimestamp(int(now), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for kind, claim in claims.items():
        before = conditions.get(kind)
        since = before["lastTransitionTime"] if before and before["status"] == claim.status else stamp
        conditions[kind] = {
            "type": kind,
            "status": claim.status,
            "reason": claim.reason,
            "message": claim.message,
            "lastTransitionTime": since,
            "observedGeneration": generation,
        }
    status: dict[str, Any] = {
        "phase": phase(conditions.values()),
        "observedGeneration": generation,
        "conditions": [conditions[kind] for kind in sorted(conditions)],
    }
    if node_id is not None and key_epoch is not None:
        status |= {"nodeId": node_id, "keyEpoch": key_epoch}
    return status


def phase(conditions: Iterable[Mapping[str, Any]]) -> str:
    """One word for people."""
    by_type = {item["type"]: item for item in conditions}
    if any(item["status"] == "Unknown" for item in by_type.values()):
        return "Unknown"
    ready, registered = by_type.get("Ready", {}), by_type.get("Registered", {})
    if registered.get("reason") == "Suspended":
        return "Suspended"
    if ready.get("reason") == "Draining":
        return "Draining"
    return "Serving" if ready.get("status") == registered.get("status") == "True" else "Pending"
