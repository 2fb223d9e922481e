"""What a Dataset's status says, from what was observed. Pure; types, polarity and reasons are documented here.

Stored          the object is in the store, whole and by its digest
Registered      the registry lists it, not revoked, with this digest, at this store
KeyHeldByStore  who can open it: True means that the storage server can, for an owner who is offline or is the server itself
Ready           a task that the policy admits will get it
"""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from veilpod.core.dataset_spec import DatasetSpec
from veilpod.core.entities import Resource
from veilpod.core.ids import Address, NodeId
from veilpod.core.task.conditions import Claim, Status, no, unknown, yes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What is known now. None is "nobody could say"."""

    stored: bool | None
    sealed_to_us: bool | None
    resource: Resource | None  # the chain's answer: None is "not there"


def claims(spec: DatasetSpec, observed: Observed, *, own: Address, node: NodeId) -> dict[str, Claim]:
    """Say what holds, by condition type."""
    found = {
        "Stored": _stored(observed),
        "Registered": _registered(spec, observed.resource, own=own, node=node),
        "KeyHeldByStore": _key(spec, observed, own=own),
    }
    missing = next(((kind, claim) for kind, claim in found.items() if claim.status is not Status.TRUE), None)
    found["Ready"] = no(missing[1].reason, missing[1].message) if missing else yes("Ready")
    return found


def phase(found: Mapping[str, Claim]) -> str:
    """One word for people: Ready, or why not."""
    return found["Ready"].reason


def merge(existing: Sequence[Mapping[str, Any]], found: Mapping[str, Claim], *, now: float, generation: int) -> list[dict[str, Any]]:
    """Apply claims to the conditions of a status. The time moves only when the status does; types of another version stay."""
    stamp = datetime.datetime.fromtimestamp(int(now), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    known = {item["type"]: item for item in existing}
    for kind, claim in found.items():
        old = known.get(kind, {})
        known[kind] = {
            "type": kind,
            "status": str(claim.status),
            "reason": claim.reason,
            "message": claim.message[:1024],
            "lastTransitionTime": old["lastTransitionTime"] if old.get("status") == str(claim.status) else stamp,
            "observedGeneration": generation,
        }
    return [dict(item) for item in known.values()]


def _stored(observed: Observed) -> Claim:
    if observed.stored is None:
        return unknown("StoreUnavailable", "the store does not answer its operator")
    return yes("Stored") if observed.stored else no("AwaitingUpload", "upload the sealed object: veilpod dataset put FILE -n NAMESPACE")


def _registered(spec: DatasetSpec, resource: Resource | None, *, own: Address, node: NodeId) -> Claim:
    if resource is None:
        if spec.owner == own:
            return no("Registering", "it is registered as soon as the object is stored")
        return no("NotRegistered", f"its owner registers it: veilpod dataset register SEALED_FILE --node {node} --key KEY_FILE")
    if resource.revoked:
        return no("Revoked", "its owner revoked it on chain; delete this Dataset, or apply it anew to offer it again")
    if resource.digest != spec.digest or resource.size != spec.size:
        return no(
            "DigestDiffers",
            "the registry lists another version under this name; its owner has to revoke that first: veilpod dataset revoke",
        )
    if resource.node != node:
        return no(
            "OtherNode", "the registry says that another store holds it; its owner has to revoke that entry first: veilpod dataset revoke"
        )
    return yes("Registered")


def _key(spec: DatasetSpec, observed: Observed, *, own: Address) -> Claim:
    if not observed.stored or observed.sealed_to_us is None:
        return unknown("NotStored", "the object's header says who can open it")
    if spec.owner != own and not spec.store_holds_key:
        return no("OwnerHoldsKey", "custody is Owner: grants come from the owner's key, which this release does not have")
    if not observed.sealed_to_us:
        return no("SealedToAnother", "the object is sealed to another key; seal it again to this release's custody key: veilpod keys show")
    return yes("OwnerIsStore" if spec.owner == own else "StoreHoldsKey", "the storage server can open these data")
