"""SandboxClasses as they are offered in this cluster: their condition Ready, and whether there is anything to offer at all.

Every computing server's operator looks every half minute and writes what it found, if that is not what stands there. Strangers in one
cluster see the same RuntimeClasses, so they agree. Nothing is decided by this status: an operator looks itself before it accepts a task.
"""

import asyncio
import logging
from collections.abc import Collection, Mapping
from typing import Any

from veilpod.control.context import Context
from veilpod.control.policies import observe_policies
from veilpod.control.status import together
from veilpod.core import dataset_status
from veilpod.core.kinds import RUNTIME_CLASSES, SANDBOX_CLASSES
from veilpod.core.sandbox_class import offered
from veilpod.core.task.conditions import Status
from veilpod.core.task.remedies import remedy
from veilpod.errors import ClusterUnavailable

log = logging.getLogger(__name__)
LOOK_SECONDS = 30.0


async def watch(context: Context) -> None:
    """Keep every class's status true, for ever."""
    while True:
        await look(context)
        await asyncio.sleep(LOOK_SECONDS)


async def look(context: Context) -> None:
    """Say of every class whether it can be had here, and why not. Raises Transient."""
    classes, runtimes = await together(context.cluster.list_all(SANDBOX_CLASSES), context.cluster.list_all(RUNTIME_CLASSES))
    present = {item["metadata"]["name"] for item in runtimes}
    for body in classes:
        await _write(context, body, present)


async def wait_for_fences(context: Context) -> None:
    """Have something to offer, behind fences that stand. Raises ClusterUnavailable, with what is missing, until then."""
    classes = await context.cluster.list_all(SANDBOX_CLASSES)
    if not classes:
        raise ClusterUnavailable("this cluster offers no SandboxClass: its admin installs Veilpod's cluster release (cluster.install=true)")
    denies = any(body.get("spec", {}).get("denyHostAccess", True) for body in classes)
    if missing := (await observe_policies(context, deny_host_access=denies)).missing:
        raise ClusterUnavailable(f"not in force: {', '.join(missing)}; what to do: {remedy('PolicyMissing')}")


async def _write(context: Context, body: Mapping[str, Any], present: Collection[str]) -> None:
    ready = offered(body, present)
    old, metadata = body.get("status") or {}, body["metadata"]
    generation = metadata.get("generation", 0)
    conditions = dataset_status.merge(old.get("conditions", []), {"Ready": ready}, now=context.clock(), generation=generation)
    if conditions == old.get("conditions"):
        return
    await context.cluster.patch_status(SANDBOX_CLASSES, metadata["name"], {"conditions": conditions})
    context.metrics.status_writes.labels(SANDBOX_CLASSES.name).inc()
    level = logging.INFO if ready.status is Status.TRUE else logging.WARNING
    log.log(level, "sandboxclass.status", extra={"object": metadata["name"], "reason": ready.reason})
