"""The status of an OnionRelay: its replicas, two conditions and a phase computed from them.

Positive polarity; Unknown means that nobody could say.

- Registered: True `Listed`; False `Registering`, `Suspended`; Unknown `ChainUnavailable`.
- Ready: True `Serving`; False `PodPending`, `Draining`, `IdentityMissing`, `IdentityMalformed`, `IdentityShared`; Unknown
  `RelayUnavailable`.

Each replica has a reason of either kind. A condition says the worst of the replicas that stay; one that leaves is listed, and counts only
when all leave.
"""

import dataclasses
import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from veilpod.core.onion import relay_identity

_LEAVING = "no new circuits are taken; it goes when those that are there have ended"
_READY = {  # reason -> status and message
    "Serving": ("True", ""),
    "PodPending": ("False", "the relay's pod is not running yet"),
    "Draining": ("False", "no new circuits are taken; set draining to false to serve again"),
    relay_identity.MISSING: (
        "False",
        "the Secret that spec.identitySecretName names is not there, or has no entry identity-ORDINAL for this replica; make one with"
        " `veilpod relay-identity NAME`; the relay looks again by itself, or at once when its pod is deleted",
    ),
    relay_identity.MALFORMED: (
        "False",
        "this replica's entry identity-ORDINAL of the Secret that spec.identitySecretName names is no Ed25519 key in PEM; make a Secret"
        " with `veilpod relay-identity NAME`; the relay looks again by itself, or at once when its pod is deleted",
    ),
    relay_identity.SHARED: (
        "False",
        "another replica of this owner's relays has the same identity key, so this one is kept out of the directory; give each an entry of"
        " its own, in a Secret that no other OnionRelay names, and delete this replica's pod",
    ),
    "RelayUnavailable": ("Unknown", "the relay does not answer its operator"),
}
_REGISTERED = {
    "Listed": ("True", ""),
    "Registering": ("False", "the directory on chain does not say yet what it should"),
    "Suspended": ("False", "the registry's guardian suspended this relay"),
    "ChainUnavailable": ("Unknown", "the chain did not answer"),
}
_WORST_FIRST = ("Unknown", "False", "True")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """What was last seen of one replica. `leaving_since` (unix seconds) is there from the moment at which it is to go."""

    ordinal: int
    ready: str = "PodPending"
    registered: str = "Registering"
    node_id: int | None = None
    key_epoch: int | None = None
    leaving_since: int | None = None


def replicas_of(status: Mapping[str, Any]) -> dict[int, Replica]:
    """Read the replicas of a status, by ordinal."""
    return {item["ordinal"]: _read(item) for item in status.get("replicas", ())}


def status_of(old: Mapping[str, Any], replicas: Sequence[Replica], *, now: float, generation: int) -> dict[str, Any]:
    """The new status. Conditions stay, and lastTransitionTime moves only when a status does. Without replicas, all are gone."""
    conditions = {item["type"]: dict(item) for item in old.get("conditions", ())}
    if replicas:
        for kind, status, reason, message in (_worst("Ready", _READY, replicas), _worst("Registered", _REGISTERED, replicas)):
            before = conditions.get(kind)
            since = before["lastTransitionTime"] if before and before["status"] == status else _stamp(now)
            conditions[kind] = {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message,
                "lastTransitionTime": since,
                "observedGeneration": generation,
            }
    new: dict[str, Any] = {
        "phase": phase(conditions.values()),
        "observedGeneration": generation,
        "replicas": [_write(item) for item in sorted(replicas, key=lambda item: item.ordinal)],
        "replicaCount": len(replicas),
        "readyReplicas": sum(item.ready == "Serving" and item.registered == "Listed" for item in replicas),
        "conditions": [conditions[kind] for kind in sorted(conditions)],
    }
    # The fields of the whole relay are its first replica's, which is the only one that never leaves alone.
    first = next((item for item in replicas if item.ordinal == 0), None)
    if first is not None and first.node_id is not None:
        new |= {"nodeId": first.node_id, "keyEpoch": first.key_epoch}
    else:
        new |= {name: old[name] for name in ("nodeId", "keyEpoch") if name in old}
    return new


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


def _worst(kind: str, words: Mapping[str, tuple[str, str]], replicas: Sequence[Replica]) -> tuple[str, str, str, str]:
    """A condition's type, status, reason and message."""
    counted = [item for item in replicas if item.leaving_since is None] or list(replicas)

    def reason_of(item: Replica) -> str:
        return item.ready if kind == "Ready" else item.registered

    worst = min(counted, key=lambda item: (_WORST_FIRST.index(words[reason_of(item)][0]), item.ordinal))
    reason = reason_of(worst)
    status, message = words[reason]
    if reason == "Draining" and worst.leaving_since is not None:
        message = _LEAVING
    if message and len(counted) > 1:
        message = f"replica {worst.ordinal}: {message}"
    return kind, status, reason, message


def _read(item: Mapping[str, Any]) -> Replica:
    since = item.get("leavingSince")
    return Replica(
        ordinal=item["ordinal"],
        ready=item["ready"],
        registered=item["registered"],
        node_id=item.get("nodeId"),
        key_epoch=item.get("keyEpoch"),
        leaving_since=None if since is None else int(datetime.datetime.fromisoformat(since).timestamp()),
    )


def _write(item: Replica) -> dict[str, Any]:
    found: dict[str, Any] = {"ordinal": item.ordinal, "ready": item.ready, "registered": item.registered}
    if item.node_id is not None and item.key_epoch is not None:
        found |= {"nodeId": item.node_id, "keyEpoch": item.key_epoch}
    if item.leaving_since is not None:
        found["leavingSince"] = _stamp(item.leaving_since)
    return found


def _stamp(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
