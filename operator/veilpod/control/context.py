"""What every role is given: the adapters behind ports, this release's keys, and the shell's services. Passed, never global.

A role module exposes `async def create(context: Context) -> Role`.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol

from veilpod.control.config import Config
from veilpod.control.drafts import Drafts
from veilpod.control.events import EventRecorder
from veilpod.control.metrics import Metrics
from veilpod.control.role import Key
from veilpod.control.tasks import Tasks
from veilpod.core.keys import NodeKeys, SigningKey
from veilpod.ports import ChainReader, ChainWriter, Cluster, ControlLink


class Connector(Protocol):
    """Opens control links with this release's control key (the `net` adapter, or a fake)."""

    async def __call__(self, host: str, port: int, *, pinned_tls_key: bytes | None = None) -> ControlLink:
        """Raises PeerUnavailable when nobody answers, Refused when the wrong server does."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One release's world."""

    config: Config
    cluster: Cluster
    reader: ChainReader
    writer: ChainWriter
    key: SigningKey
    node_keys: NodeKeys
    clock: Callable[[], float]  # unix seconds
    connect: Connector
    events: EventRecorder
    metrics: Metrics
    tasks: Tasks  # long-running work: links, watches, heartbeats
    enqueue: Callable[[Key], None]  # look at this key now
    drafts: Drafts = dataclasses.field(default_factory=Drafts)
