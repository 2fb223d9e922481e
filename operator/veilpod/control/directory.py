"""What an operator reads of the registry for its own processes: the relays that prove their keys, and its Services' public endpoints."""

import logging

from veilpod.control.context import Context
from veilpod.core.endpoint import spell_endpoint
from veilpod.core.entities import Role
from veilpod.core.kinds import SERVICES
from veilpod.core.onion.directory import RelayEntry, read_directory
from veilpod.core.onion.trouble import find_trouble
from veilpod.core.task.snapshot import Refusal
from veilpod.core.task.spec import TaskSpec
from veilpod.errors import ClusterUnavailable, ProtocolViolation

log = logging.getLogger(__name__)
STORE_PORT = 9101


async def relay_directory(context: Context) -> tuple[RelayEntry, ...]:
    """Every listed relay whose proof of possession holds."""
    chain = context.config.chain
    relays, refused = read_directory(await context.reader.directory(Role.RELAY), registry=chain.registry, chain_id=chain.chain_id)
    if refused:
        log.warning("directory.refused", extra={"relays": len(refused)})
    return tuple(relays)


async def relay_trouble(context: Context, spec: TaskSpec, now: int) -> Refusal | None:
    """Why the directory offers no path for a task's circuits, None when it does. `now`: the chain's time."""
    found = find_trouble(await relay_directory(context), hops=spec.hops, in_cluster=spec.relays == "InCluster", now=now)
    return Refusal(reason=found.reason, message=str(found)) if found else None


async def service_endpoint(context: Context, service: str, *, port: int = STORE_PORT) -> str:
    """The public endpoint of a store or mailbox: its Service's address, never a name. Raises ClusterUnavailable until it has one."""
    found = await context.cluster.get(SERVICES, service, namespace=context.config.namespace)
    if found is None:
        raise ClusterUnavailable(f"the Service {service} is not there yet", retry_after=1)
    address = found["spec"].get("clusterIP", "")
    try:
        return spell_endpoint(address, port)
    except ProtocolViolation as error:
        raise ClusterUnavailable(f"the Service {service} has no address that relays could dial: {address!r}") from error
