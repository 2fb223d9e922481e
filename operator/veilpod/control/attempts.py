"""Requests of ours: until when each may still land, and which lane its channels are in. On disk before the transaction leaves.

A lane is one set of channels, between whichever servers, that one task of ours uses at a time: the next task in a lane opens the same
channels again, for three quarters of the gas. A task keeps its lane until its channels are closed, even when its object is long gone.
"""

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Awaitable, Callable

from veilpod.chain.files import private_directory, write_atomically
from veilpod.core.ids import TaskId
from veilpod.errors import Transient

IsOver = Callable[[TaskId, int], Awaitable[bool]]  # (task, until)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One task: its lane, and once it was requested the time (unix seconds) after which that request is void."""

    lane: int
    until: int | None = None


class Attempts:
    """Every request of this release that may still land or hold a lane."""

    def __init__(self, directory: pathlib.Path) -> None:
        private_directory(directory)
        self._directory = directory
        self._known = {TaskId(bytes.fromhex(path.stem)): Attempt(**json.loads(path.read_bytes())) for path in directory.glob("*.json")}

    def until(self, task: TaskId) -> int | None:
        """When the request of a task is void if it has not landed; None when there is none."""
        found = self._known.get(task)
        return found.until if found else None

    async def lane(self, task: TaskId, is_over: IsOver) -> int:
        """The lane of a task: the one it has, or the lowest that no other task of ours uses. Raises what `is_over` raises."""
        for other, attempt in list(self._known.items()):
            if other != task and attempt.until is not None and await is_over(other, attempt.until):
                self._remove(other)
        if task not in self._known:
            used = {attempt.lane for attempt in self._known.values()}
            self._known[task] = Attempt(lane=next(lane for lane in itertools.count() if lane not in used))
        return self._known[task].lane

    def note(self, task: TaskId, until: int) -> None:
        """The request of a task that has a lane is about to be sent. Raises Transient when it has lost it."""
        if task not in self._known:
            # Its last request was void, and another task's look took the lane back between our look and this.
            raise Transient("the lane of this request was given back meanwhile: it gets another", retry_after=1)
        attempt = dataclasses.replace(self._known[task], until=until)
        write_atomically(self._path(task), json.dumps(dataclasses.asdict(attempt)).encode())
        self._known[task] = attempt

    def forget(self, task: TaskId) -> None:
        """The task's object is gone. What was requested keeps its lane until it is over."""
        if task in self._known and self._known[task].until is None:
            del self._known[task]

    def _remove(self, task: TaskId) -> None:
        self._known.pop(task, None)
        self._path(task).unlink(missing_ok=True)

    def _path(self, task: TaskId) -> pathlib.Path:
        return self._directory / f"{task.hex()}.json"
