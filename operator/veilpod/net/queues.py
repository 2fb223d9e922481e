"""What waits for a link that takes nothing just now: one queue per circuit, served round robin, within the process's budget.

Holds cells and who waits for room; decides nothing. Paper step 5.
"""

import asyncio
import collections
from collections.abc import Callable

from veilpod.net.budget import Budget

_READY = 2  # a sender waits while more than this many cells of its circuit are queued


class Queues:
    """The queues of one link."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._cells: collections.OrderedDict[int, collections.deque[memoryview]] = collections.OrderedDict()
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []

    def __bool__(self) -> bool:
        return bool(self._cells)

    def length(self, circ_id: int) -> int:
        """How many cells of a circuit wait."""
        return len(self._cells.get(circ_id, ()))

    def put(self, circ_id: int, cell: memoryview) -> None:
        """Queue a cell that nobody else will write to."""
        self._cells.setdefault(circ_id, collections.deque()).append(cell)
        self._budget.take(len(cell))

    def serve(self, emit: Callable[[memoryview], bool]) -> None:
        """Emit cells in turn until `emit` says that it takes no more, or nothing is left; then wake who has room now."""
        more = True
        while more and self._cells:
            circ_id, queue = self._cells.popitem(last=False)
            cell = queue.popleft()
            if queue:
                self._cells[circ_id] = queue
            self._budget.give(len(cell))
            more = emit(cell)
        self._wake()

    def clear(self) -> int:
        """Forget everything. Returns the bytes that were held; the caller settles them with the budget."""
        held = sum(len(cell) for queue in self._cells.values() for cell in queue)
        self._cells.clear()
        self._wake()
        return held

    def has_room(self, circ_id: int) -> bool:
        """Whether `room` would return at once."""
        return self.length(circ_id) <= _READY

    async def room(self, circ_id: int) -> None:
        """Wait while too much of a circuit is queued."""
        while not self.has_room(circ_id):
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append((circ_id, waiter))
            await waiter

    def _wake(self) -> None:
        waiting, self._waiters = self._waiters, []
        for circ_id, waiter in waiting:
            if not self.has_room(circ_id):
                self._waiters.append((circ_id, waiter))
            elif not waiter.done():
                waiter.set_result(None)
