"""kopf's part: watch our kinds in one namespace and put a key into the queue for every event. Nothing is decided here.

Only `on.event`: daemons and timers would force kopf's own finalizers on our objects, and a handler per field loses updates
(nolar/kopf#1178). kopf claims every task of its loop, so the operator starts in `on.startup` and stops in `on.cleanup`.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import kopf

from veilpod.control.role import Key
from veilpod.core.kinds import Kind
from veilpod.kube.connection import Connection


def register(
    kinds: Iterable[Kind],
    *,
    connection: Connection,
    enqueue: Callable[[Key], None],
    start: Callable[[], Awaitable[None]],
    stop: Callable[[], Awaitable[None]],
) -> kopf.OperatorRegistry:
    """Build a registry of three-line handlers."""
    registry = kopf.OperatorRegistry()

    @kopf.on.startup(registry=registry)
    async def startup(**_: Any) -> None:
        await start()

    @kopf.on.cleanup(registry=registry)
    async def cleanup(**_: Any) -> None:
        await stop()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(
            server=connection.server,
            ca_data=connection.ca_data,
            token=connection.bearer(),
            certificate_data=connection.certificate,
            private_key_data=connection.private_key,
        )

    for kind in kinds:
        _watch(registry, kind, enqueue)
    return registry


def _watch(registry: kopf.OperatorRegistry, kind: Kind, enqueue: Callable[[Key], None]) -> None:
    @kopf.on.event(kind.group, kind.version, kind.plural, registry=registry)
    async def seen(name: str | None, **_: Any) -> None:
        enqueue(Key(kind=kind.plural, name=str(name)))


def settings() -> kopf.OperatorSettings:
    """One namespaced Role is enough for these: no scanning, no peering, no events of kopf's own, no finalizers."""
    found = kopf.OperatorSettings()
    found.scanning.disabled = True
    found.posting.enabled = False
    found.peering.standalone = True
    found.watching.server_timeout = 240
    found.watching.client_timeout = 300
    found.watching.connect_timeout = 10
    found.networking.request_timeout = 30
    found.process.ultimate_exiting_timeout = 30
    return found
