"""Conditions: the truth about a task, from which the phase is computed. Types, polarity and reasons are documented here.

Every type is positive (True is the good news) except Failed. A condition goes False or Unknown, it never vanishes; Unknown means that
nobody could say. lastTransitionTime moves only when the status does. What can never be undone is sticky: no later observation may
turn it back.
"""

import dataclasses
import datetime
import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class Type(enum.StrEnum):
    """In the order in which a task turns them True; the paper's step in brackets."""

    REQUESTED = "Requested"  # [1] the specification is on chain and the budget in escrow
    SCHEDULED = "Scheduled"  # [2] every server was verified and engaged by the contract
    CHANNELS_OPEN = "ChannelsOpen"  # [3] every pair that talks has locked its deposits
    NETWORK_ISOLATED = "NetworkIsolated"  # [4] netguard saw relays reachable and canaries blocked, in one observation
    HOST_ACCESS_DENIED = "HostAccessDenied"  # [4] the policies that refuse exec, attach and port-forward are in force (servers only)
    SANDBOX_READY = "SandboxReady"  # [4] the sandbox's keys were born in it and its statement was checked and countersigned
    KEY_PUBLISHED = "KeyPublished"  # [4] the sandbox key is on chain, signed by every server
    DATA_DELIVERED = "DataDelivered"  # [5] every input has arrived in its sandbox
    INPUTS_VERIFIED = "InputsVerified"  # [6] signer, digest and decryption of every input are right
    COMPUTED = "Computed"  # [7] the program has ended with success
    RESULT_DELIVERED = "ResultDelivered"  # [8] the sealed, signed result is in the mailbox
    FINAL_STATE_SIGNED = "FinalStateSigned"  # [10] the final channel states are co-signed and on disk
    SANDBOX_DESTROYED = "SandboxDestroyed"  # [10] the node reported every container dead and the pod is gone, by UID. Sticky
    KEY_REVOKED = "KeyRevoked"  # [11] the chain no longer accepts the sandbox key. Sticky
    SETTLED = "Settled"  # [11] everybody was paid or refunded and no channel is open. Sticky
    ATTESTED = "Attested"  # hardware evidence over the statement; False with reason NoTEE until a TEE is there
    FAILED = "Failed"  # the one negative type: True with the failure's code


NOT_PROMISED = "NotPromised"  # HostAccessDenied is False because the SandboxClass never said otherwise


class Status(enum.StrEnum):
    """Unknown is not False."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


STICKY = frozenset({Type.REQUESTED, Type.SANDBOX_DESTROYED, Type.KEY_REVOKED, Type.SETTLED, Type.FINAL_STATE_SIGNED, Type.FAILED})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a decision says about one type now."""

    status: Status
    reason: str
    message: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A claim as it stands in a status."""

    type: Type
    status: Status
    reason: str
    message: str
    since: str  # RFC 3339
    generation: int

    def to_json(self) -> dict[str, Any]:
        """The form of the Kubernetes API."""
        return {
            "type": str(self.type),
            "status": str(self.status),
            "reason": self.reason,
            "message": self.message,
            "lastTransitionTime": self.since,
            "observedGeneration": self.generation,
        }


Claims = Mapping[Type, Claim]


def yes(reason: str, message: str = "") -> Claim:
    """It is so."""
    return Claim(status=Status.TRUE, reason=reason, message=message)


def no(reason: str, message: str = "") -> Claim:
    """It is not so (yet): the reason says why."""
    return Claim(status=Status.FALSE, reason=reason, message=message)


def unknown(reason: str, message: str = "") -> Claim:
    """Nobody could say."""
    return Claim(status=Status.UNKNOWN, reason=reason, message=message)


def parse(items: Iterable[Mapping[str, Any]]) -> tuple[Condition, ...]:
    """Read the conditions of a status. Types of a newer version are left alone by who writes merge patches per list: they are kept out."""
    known = {str(kind) for kind in Type}
    return tuple(
        Condition(
            type=Type(item["type"]),
            status=Status(item["status"]),
            reason=item["reason"],
            message=item.get("message", ""),
            since=item["lastTransitionTime"],
            generation=item.get("observedGeneration", 0),
        )
        for item in items
        if item.get("type") in known
    )


def merge(existing: Sequence[Condition], claims: Claims, *, now: float, generation: int) -> tuple[Condition, ...]:
    """Apply claims. Types without a claim stay as they were; sticky ones that are True stay True; the law of the CRDs holds."""
    by_type = {condition.type: condition for condition in existing}
    stamp = datetime.datetime.fromtimestamp(int(now), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for kind, claim in claims.items():
        old = by_type.get(kind)
        if old and old.status is Status.TRUE and kind in STICKY and claim.status is not Status.TRUE:
            continue
        same = old is not None and old.status is claim.status
        by_type[kind] = Condition(
            type=kind,
            status=claim.status,
            reason=claim.reason,
            message=claim.message[:1024],
            since=old.since if old and same else stamp,
            generation=generation,
        )
    _keep_lawful(by_type, {condition.type: condition for condition in existing})
    return tuple(by_type[kind] for kind in Type if kind in by_type)


def _keep_lawful(by_type: dict[Type, Condition], before: Mapping[Type, Condition]) -> None:
    """Hold back what may become True only together with something else that is not (yet) observed to be."""
    needs = ((Type.KEY_PUBLISHED, (Type.NETWORK_ISOLATED, Type.HOST_ACCESS_DENIED)), (Type.SETTLED, (Type.SANDBOX_DESTROYED,)))
    for kind, others in needs:
        old, new = before.get(kind), by_type.get(kind)
        if new is None or new.status is not Status.TRUE or (old and old.status is Status.TRUE):
            continue
        missing = [other for other in others if other in by_type and not _holds(by_type[other])]
        if missing:
            held = dataclasses.replace(new, status=Status.UNKNOWN, reason="Waiting", message=f"{missing[0]} is not True")
            by_type[kind] = dataclasses.replace(held, since=old.since) if old and old.status is Status.UNKNOWN else held


def _holds(condition: Condition) -> bool:
    return condition.status is Status.TRUE or (condition.type is Type.HOST_ACCESS_DENIED and condition.reason == NOT_PROMISED)


def is_true(conditions: Iterable[Condition], kind: Type) -> bool:
    """Whether a condition stands at True."""
    return any(condition.type is kind and condition.status is Status.TRUE for condition in conditions)


_PHASES = (
    (Type.KEY_REVOKED, "Settling"),
    (Type.SANDBOX_DESTROYED, "Destroyed"),
    (Type.FINAL_STATE_SIGNED, "Finishing"),
    (Type.RESULT_DELIVERED, "Delivered"),
    (Type.COMPUTED, "Computed"),
    (Type.INPUTS_VERIFIED, "Running"),
    (Type.KEY_PUBLISHED, "AwaitingInputs"),
    (Type.SANDBOX_READY, "Meeting"),
    (Type.SCHEDULED, "Preparing"),
    (Type.REQUESTED, "Requested"),
)


def phase(conditions: Sequence[Condition]) -> str:
    """One word for people: Failed and Settled first, else the furthest step reached."""
    true = {condition.type for condition in conditions if condition.status is Status.TRUE}
    if Type.FAILED in true:
        return "Failed" if Type.SETTLED in true or Type.REQUESTED not in true else "Failing"
    if Type.SETTLED in true:
        return "Settled"
    return next((name for kind, name in _PHASES if kind in true), "Pending")
