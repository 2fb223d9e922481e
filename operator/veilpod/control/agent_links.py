"""The control streams to our sandboxes' agents: one per assignment, to the pod of the current incarnation, for as long as it lives.

Where an agent is comes from the API server, for exactly that pod UID; who it is, is learnt at the first connection and fixed by the signed
statement. Events go to the handler in order and are acknowledged only after it returned: what it must not forget it has written by then.
"""

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from veilpod.control.context import Context
from veilpod.core.ids import PodUid
from veilpod.errors import PeerUnavailable, Terminal
from veilpod.ports import ControlLink

CONTROL_PORT = 7443
OnEvent = Callable[[str, str, dict[str, Any]], Awaitable[None]]  # (assignment, event, data)

log = logging.getLogger(__name__)


@dataclasses.dataclass(slots=True, kw_only=True)
class _Entry:
    uid: PodUid
    task: asyncio.Task[None]
    link: ControlLink | None = None
    said: set[str] = dataclasses.field(default_factory=set)  # commands that this agent has answered


class AgentLinks:
    """Links by the name of the TaskAssignment."""

    def __init__(self, context: Context, *, on_event: OnEvent, on_change: Callable[[str], None]) -> None:
        self._context, self._on_event, self._on_change = context, on_event, on_change
        self._entries: dict[str, _Entry] = {}

    def connect(self, name: str, *, uid: PodUid, host: str, pinned: bytes | None) -> None:
        """Have a link to this pod: kept, made, or made anew when the pod is another one."""
        entry = self._entries.get(name)
        if entry and entry.uid == uid:
            return
        self.drop(name)
        task = self._context.tasks.start("agent.link", lambda: self._run(name, uid, host, pinned))
        self._entries[name] = _Entry(uid=uid, task=task)

    def find(self, name: str, uid: PodUid) -> ControlLink | None:
        """The link to this pod once it is up."""
        entry = self._entries.get(name)
        return entry.link if entry and entry.uid == uid else None

    def any_of(self, name: str) -> ControlLink:
        """The link of an assignment. Raises PeerUnavailable while there is none."""
        entry = self._entries.get(name)
        if entry is None or entry.link is None:
            raise PeerUnavailable("the agent is not connected")
        return entry.link

    async def once(self, name: str, command: str, **args: Any) -> None:
        """Give a command that changes nothing when repeated, unless this very agent has answered it already."""
        link, entry = self.any_of(name), self._entries[name]
        if command not in entry.said:
            await link.call(command, **args)
            entry.said.add(command)

    def drop(self, name: str) -> None:
        """End a link."""
        entry = self._entries.pop(name, None)
        if entry:
            entry.task.cancel()

    async def _run(self, name: str, uid: PodUid, host: str, pinned: bytes | None) -> None:
        try:
            link = await self._context.connect(host, CONTROL_PORT, pinned_tls_key=pinned)
        except Terminal as error:
            # Another process answers at the agent's place: the pod's status will tell what became of ours.
            log.warning("agent.refused", extra={"object": name, "reason": error.reason})
            raise PeerUnavailable(f"the agent is not the one that was known: {error}") from error
        try:
            entry = self._entries.get(name)
            if entry is None or entry.uid != uid:
                return
            entry.link = link
            log.info("agent.connected", extra={"object": name})
            self._on_change(name)
            await self._pump(name, link)
        except Terminal as error:
            log.warning("agent.lost", extra={"object": name, "reason": error.reason})
            self._on_change(name)
        finally:
            if (entry := self._entries.get(name)) is not None and entry.link is link:
                entry.link = None
            await link.close()

    async def _pump(self, name: str, link: ControlLink) -> None:
        newest, changed = 0, asyncio.Event()

        async def acknowledge() -> None:
            # Beside the stream: one acknowledgement covers all events that came while the last one was under way.
            while True:
                await changed.wait()
                changed.clear()
                await link.acknowledge(newest)

        acknowledging = asyncio.create_task(_patient(acknowledge), name="agent.acknowledge")
        try:
            async for sequence, event, data in link.events():
                await self._on_event(name, event, data)
                newest = sequence
                changed.set()
        finally:
            acknowledging.cancel()
            await asyncio.gather(acknowledging, return_exceptions=True)


async def _patient(run: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await run()
        except PeerUnavailable:
            await asyncio.sleep(1.0)
