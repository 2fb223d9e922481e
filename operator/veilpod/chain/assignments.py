"""Which tasks were ever assigned to a node: an index that TaskScheduler does not keep, built from its events.

Read forward only, up to the confirmed block, and thrown away when a confirmed block was reorganised. In memory: a restart reads
the events again, from the block of the deployment, because a task that is missed here is a sandbox that is never torn down.
"""

import dataclasses
from collections.abc import Sequence

from veilpod.chain import contracts, logs
from veilpod.chain.heads import Header, Heads, header
from veilpod.chain.rpc import Rpc
from veilpod.core.ids import NodeId, TaskId
from veilpod.errors import ChainUnavailable


@dataclasses.dataclass(slots=True, kw_only=True)
class _Entry:
    nodes: frozenset[int]
    ended_in: int | None = None  # block
    ended_at: int | None = None  # unix seconds, read when it is asked for


class Assignments:
    """Assigned, Completed and Closed, folded. One caller at a time."""

    def __init__(self, rpc: Rpc, heads: Heads, addresses: contracts.Addresses) -> None:
        self._rpc = rpc
        self._heads = heads
        self._addresses = addresses
        self._reset()

    async def of(self, node: NodeId, block: Header, *, ended_after: int) -> Sequence[TaskId]:
        """Tasks of a node that have not ended by `block`, or ended after a time (unix seconds), oldest first."""
        await self._read_up_to(block)
        mine = {task: entry for task, entry in self._tasks.items() if node in entry.nodes}
        alive = {task for task, entry in mine.items() if entry.ended_in is None}
        ended = [(task, entry) for task, entry in mine.items() if entry.ended_in is not None]
        # Newest first, until one is too old: a server has ended thousands, and each costs a question.
        for task, entry in sorted(ended, key=lambda pair: pair[1].ended_in or 0, reverse=True):
            if await self._ended_at(entry) <= ended_after:
                break
            alive.add(task)
        return tuple(task for task in mine if task in alive)

    def _reset(self) -> None:
        self._reorgs = self._heads.reorgs
        self._next = self._addresses.since
        self._tasks: dict[TaskId, _Entry] = {}

    async def _read_up_to(self, block: Header) -> None:
        if self._reorgs != self._heads.reorgs:
            self._reset()
        names = ("Assigned", "Completed", "Closed")
        topics = [[logs.topic("TaskScheduler", name) for name in names]]
        entries = await logs.all_logs(self._rpc, self._addresses, ["TaskScheduler"], topics, first=self._next, last=block.number)
        for entry in entries:
            task = TaskId(entry.args["id"])
            if entry.name == "Assigned":
                self._tasks[task] = _Entry(nodes=frozenset(entry.args["compute"]) | frozenset(entry.args["stores"]))
            elif task in self._tasks:  # a task that was never assigned is of no node
                self._tasks[task].ended_in = entry.block
        self._next = max(self._next, block.number + 1)

    async def _ended_at(self, entry: _Entry) -> int:
        if entry.ended_at is None:
            found = await header(self._rpc, entry.ended_in or 0)
            if found is None:
                raise ChainUnavailable("the node does not have a block that it had")
            entry.ended_at = found.timestamp
        return entry.ended_at
