"""Writing an object's status: only if something changed, with a log line and a metric for each change.

Conditions often move several times within seconds. A change that nobody waits for is written a little later, with all that changed until
then; one that somebody does, and any trouble, is written at once. The status is never read back to decide anything but what it says last.
"""

import asyncio
import contextlib
import datetime
import logging
from collections.abc import Awaitable, Collection, Mapping
from typing import Any, TypeVar

from veilpod.control.context import Context
from veilpod.core.kinds import Kind
from veilpod.core.task import conditions
from veilpod.core.task.conditions import Condition, Status, Type
from veilpod.core.task.plan import Effect, Plan
from veilpod.core.task.snapshot import Unknown
from veilpod.errors import ChainUnavailable, ClusterUnavailable, InsufficientFunds, NotServed, PeerUnavailable, Transient, VeilpodError

log = logging.getLogger(__name__)
FINALIZER = "veilpod.dev/settlement"
T = TypeVar("T")


async def seen(asking: Awaitable[T]) -> T | Unknown:
    """Ask, and turn "nobody answered" into a value. Terminal errors are answers of another kind and pass."""
    try:
        return await asking
    except ChainUnavailable:
        return Unknown("ChainUnavailable")
    except NotServed:
        return Unknown("ApiNotServed")
    except ClusterUnavailable:
        return Unknown("ClusterUnavailable")
    except PeerUnavailable:
        return Unknown("PeerUnavailable")
    except Transient:
        return Unknown("Unavailable")


async def write(
    context: Context,
    kind: Kind,
    body: Mapping[str, Any],
    plan: Plan,
    fields: Mapping[str, Any],
    *,
    phase: str | None = None,
    at_once: Collection[Type] | None = None,
) -> float | None:
    """Merge a plan's claims and other fields into the status and patch it if it differs. The phase is computed unless given.

    With `at_once` only a failure and these conditions' becoming True are written now; other changes may wait. Returns when to look
    again: what the plan says, or earlier for what waits.
    """
    metadata, old = body["metadata"], body.get("status") or {}
    before = conditions.parse(old.get("conditions", ()))
    generation = metadata.get("generation", 0)
    after = conditions.merge(before, plan.claims, now=context.clock(), generation=generation)
    new = {name: value for name, value in fields.items() if value is not None}
    if plan.failure:
        new["failure"] = {"stage": plan.failure.stage, "code": plan.failure.code}
    new |= {"phase": phase or conditions.phase(after), "observedGeneration": generation}
    changed = {name: value for name, value in new.items() if old.get(name) != value}
    if after != before:
        changed["conditions"] = [condition.to_json() for condition in after]
    uid = metadata.get("uid", "")
    if not changed:
        context.drafts.written(uid)
        return plan.requeue_after
    if at_once is not None and "failure" not in changed and not _became_true(before, after, at_once):
        left = context.drafts.left(uid, context.clock())
        if left > 0:
            return left if plan.requeue_after is None else min(left, plan.requeue_after)
    await context.cluster.patch_status(kind, metadata["name"], changed, namespace=metadata["namespace"])
    context.drafts.written(uid)
    context.metrics.status_writes.labels(kind.name).inc()
    _tell(context, kind, metadata, before, after)
    return plan.requeue_after


async def set_finalizer(context: Context, kind: Kind, body: Mapping[str, Any], *, present: bool) -> None:
    """Add or remove our finalizer, if the object is still the one that was read."""
    metadata = body["metadata"]
    others = [name for name in metadata.get("finalizers", []) if name != FINALIZER]
    wanted = [*others, FINALIZER] if present else others
    if wanted == metadata.get("finalizers", []):
        return
    if not present:
        context.drafts.written(metadata["uid"])  # nobody is left to read it
    await context.cluster.set_finalizers(
        kind,
        metadata["name"],
        wanted,
        resource_version=metadata["resourceVersion"],
        uid=metadata["uid"],
        namespace=metadata["namespace"],
    )


def told(plan: Plan, effect: Effect, error: VeilpodError) -> Plan:
    """The plan with what a person must know of a failed effect: that the account is empty, which heals when it is not."""
    if not isinstance(error, InsufficientFunds):
        return plan
    return plan.held_up(effect, conditions.no("InsufficientFunds", str(error)))


def has_finalizer(body: Mapping[str, Any]) -> bool:
    """Whether our finalizer holds an object."""
    return FINALIZER in body["metadata"].get("finalizers", [])


def true_since(body: Mapping[str, Any], kind: conditions.Type) -> str | None:
    """Since when an object's status has a condition as True (RFC 3339); None when it has not."""
    found = conditions.parse((body.get("status") or {}).get("conditions", ()))
    return next((condition.since for condition in found if condition.type is kind and condition.status is Status.TRUE), None)


def is_deleting(body: Mapping[str, Any]) -> bool:
    """Whether somebody asked for the object's deletion."""
    return "deletionTimestamp" in body["metadata"]


def _became_true(before: tuple[Condition, ...], after: tuple[Condition, ...], kinds: Collection[Type]) -> bool:
    return any(conditions.is_true(after, kind) and not conditions.is_true(before, kind) for kind in kinds)


def _tell(context: Context, kind: Kind, metadata: Mapping[str, Any], before: tuple[Condition, ...], after: tuple[Condition, ...]) -> None:
    known = {condition.type: condition for condition in before}
    for condition in after:
        old = known.get(condition.type)
        if old and (old.status, old.reason) == (condition.status, condition.reason):
            continue
        context.metrics.conditions.labels(kind.name, condition.type, condition.status).inc()
        log.info(
            "condition.changed",
            extra={
                "kind": kind.name,
                "object": metadata["name"],
                "type": condition.type,
                "status": condition.status,
                "reason": condition.reason,
            },
        )
        if condition.status is Status.TRUE and (not old or old.status is not Status.TRUE):
            with contextlib.suppress(KeyError, ValueError):
                created = datetime.datetime.fromisoformat(metadata["creationTimestamp"])
                context.metrics.stage.labels(kind.name, condition.type).observe(max(context.clock() - created.timestamp(), 0))


async def together(*asking: Awaitable[Any]) -> list[Any]:
    """Ask several questions at once. The first error ends the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_coroutine(question)) for question in asking]
    except BaseExceptionGroup as errors:
        raise _leaf(errors) from errors
    return [task.result() for task in tasks]


async def _coroutine(asking: Awaitable[T]) -> T:
    return await asking


def _leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
