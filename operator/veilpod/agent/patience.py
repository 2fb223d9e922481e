"""An onion proxy that waits: what keeps circuits from being made today may be over in a minute (paper step 5).

Relays come back, others are registered, and the operator tells the directory anew; so each attempt is repeated until its caller's time is
over, or this proxy's own patience. What is in the way is told meanwhile, as a code (`core.onion.trouble`). The number of hops and the
rules of a path are the same in every attempt.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from veilpod.core.ids import NodeId
from veilpod.core.onion.trouble import trouble_of
from veilpod.errors import CircuitFailed, Refused
from veilpod.net.pauses import pauses
from veilpod.ports import Onion, RendezvousPoint, Session, Stream

_PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0)

_T = TypeVar("_T")
Tell = Callable[[str], object]


class PatientOnion:
    """Implements ports.Onion. `tell` hears the code of what is in the way, and "" when a circuit was made."""

    def __init__(self, onion: Onion, *, seconds: float, tell: Tell) -> None:
        self._onion, self._seconds, self._tell = onion, seconds, tell
        self._closed = False
        onion.on_trouble = tell

    @property
    def on_trouble(self) -> Tell | None:
        """Who is told."""
        return self._tell

    @on_trouble.setter
    def on_trouble(self, tell: Tell | None) -> None:
        self._onion.on_trouble = tell
        self._tell = tell or (lambda _: None)

    async def open(self, host: str, port: int) -> Stream:
        return await self._wait_out(lambda: self._onion.open(host, port))

    async def rendezvous(self) -> RendezvousPoint:
        return await self._wait_out(self._onion.rendezvous)

    async def connect(self, *, relay: NodeId, cookie: bytes, service_key: bytes) -> Session:
        return await self._wait_out(lambda: self._onion.connect(relay=relay, cookie=cookie, service_key=service_key))

    async def close(self) -> None:
        self._closed = True
        await self._onion.close()

    async def _wait_out(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """Try until it works, is refused for another reason, or patience is over: then the last error is raised as it is."""
        clock = asyncio.get_running_loop().time
        until = clock() + self._seconds
        for pause in pauses(*_PAUSES):
            try:
                done = await attempt()
            except (Refused, CircuitFailed) as error:
                trouble = trouble_of(error)
                if trouble:
                    self._tell(trouble)
                if not trouble or self._closed or clock() + pause > until:
                    raise
            else:
                self._tell("")
                return done
            await asyncio.sleep(pause)
        raise AssertionError  # the pauses have no end
