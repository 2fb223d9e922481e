"""What a role of a release is to the operator: some kinds it reconciles, some chain events that are hints for it.

The operator process (`app.py`) owns kopf, the keyed queue, the chain follower, metrics and probes; a role owns rules. Roles
never import each other.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Protocol

from veilpod.core.entities import ChainEvent


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Key:
    """One unit of work: an object of a kind. The namespace is the release's own (or its sandboxes', for pods)."""

    kind: str  # plural, e.g. "computetasks"
    name: str


class Role(Protocol):
    """A part that a release plays on chain."""

    name: str
    kinds: Sequence[str]  # of the keys that it reconciles: plurals of veilpod.dev, or names of its own

    async def start(self) -> None:
        """Register the node on chain, connect to what already runs. Called once the caches and the chain are there; may be long."""

    async def stop(self) -> None: ...

    async def reconcile(self, key: Key) -> float | None:
        """Observe, decide, act, write status once. Seconds until it wants to look again, or None. Raises Transient or Terminal."""

    def interested(self, event: ChainEvent) -> Iterable[Key]:
        """Keys to look at again because of a chain event. A hint: losing it only costs time."""

    async def resync(self) -> Iterable[Key]:
        """Every key there is, both ways (chain -> cluster, cluster -> chain). Called at start and each minute: level-triggered truth."""
