"""The operator of one release: chain, roles, queue, follower, resync, probes. kopf's part is in `handlers`.

    kopf watch event, chain event, agent event, timer  -> a key in the queue: a hint, nothing more
    worker: reconcile(key) = observe -> decide -> act -> write status once
    every minute and at start: every key there is, from the chain and from the cluster

A chain that is down at the start is waited for loudly: alive, not ready. A chain that is the wrong one ends the process.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence

from veilpod.chain import Chain
from veilpod.control.context import Context
from veilpod.control.metrics import Metrics
from veilpod.control.money import AccountMetrics
from veilpod.control.nodes import ensure_alone
from veilpod.control.queue import KeyedQueue
from veilpod.control.reconciler import Reconciler
from veilpod.control.role import Key, Role
from veilpod.control.tasks import Tasks
from veilpod.errors import ChainUnavailable, Terminal, Transient, VeilpodError

log = logging.getLogger(__name__)

RESYNC_SECONDS = 60.0
WORKERS = 8
_CONNECT_PAUSE = 3.0
_LAG_SECONDS = 5.0
_STUCK_SECONDS = 600.0

ConnectChain = Callable[[], Awaitable[Chain]]
MakeContext = Callable[[Chain], Context]
MakeRoles = Callable[[Context], Awaitable[Sequence[Role]]]


class Operator:
    """Start it once, stop it once. What fails beyond repair is raised by `wait_failed`."""

    def __init__(
        self, *, connect_chain: ConnectChain, make_context: MakeContext, make_roles: MakeRoles, metrics: Metrics, tasks: Tasks
    ) -> None:
        self._connect_chain, self._make_context, self._make_roles = connect_chain, make_context, make_roles
        self._metrics, self._tasks = metrics, tasks
        self._chain: Chain | None = None
        self._roles: list[Role] = []
        self._started = False
        self._lag = 0.0
        self._waiting = ""
        self.queue = KeyedQueue()

    def enqueue(self, key: Key) -> None:
        """Look at a key now."""
        self.queue.add(key)

    def start(self) -> None:
        """Begin, in the background: the probes tell how far it is."""
        self._tasks.start("operator.lag", self._measure)
        self._tasks.start("operator.run", self._run, fatal=(Terminal,))

    async def stop(self) -> None:
        """Stop the roles, then everything else. Our transactions and the agents' events wait on disk and in the agents."""
        await self._tasks.close()
        for role in reversed(self._roles):
            with contextlib.suppress(VeilpodError):
                await role.stop()
        if self._chain is not None:
            await self._chain.close()

    # -- probes

    def alive(self) -> str | None:
        """What is wrong beyond waiting, or None."""
        if self._lag > 2 * _LAG_SECONDS:
            return f"the event loop is {self._lag:.0f} s late"
        if self.queue.oldest() > _STUCK_SECONDS:
            return "a reconciliation is stuck"
        return None

    def ready(self) -> str | None:
        """Why the operator does not do its work (yet), or None."""
        if self._chain is None:
            return "the chain has not answered yet"
        if self._chain.problem is not None:
            return self._chain.problem
        return None if self._started else self._waiting or "the roles have not started yet"

    # -- running

    async def _run(self) -> None:
        if self._chain is None:
            self._chain = await self._connected()
            log.info("chain.connected")
        context = self._make_context(self._chain)
        roles = await self._make_roles(context)
        await self._until("this release", lambda: ensure_alone(context))
        for role in roles:
            await self._until(role.name, role.start)
            self._roles.append(role)
            log.info("role.started", extra={"role": role.name})
        kinds = {kind: role for role in roles for kind in role.kinds}
        reconciler = Reconciler(self.queue, kinds, self._metrics)
        for number in range(WORKERS):
            self._tasks.start(f"worker.{number}", reconciler.work)
        self._tasks.start("chain.events", self._follow)
        await self._resync()
        self._started = True
        log.info("operator.ready", extra={"roles": [role.name for role in roles]})
        while True:
            await asyncio.sleep(RESYNC_SECONDS)
            await self._resync()

    async def _connected(self) -> Chain:
        while True:
            try:
                return await self._connect_chain()
            except ChainUnavailable as error:
                log.warning("chain.waiting", extra={"why": str(error)})
            await asyncio.sleep(_CONNECT_PAUSE)

    async def _until(self, name: str, start: Callable[[], Awaitable[None]]) -> None:
        """Start something that may have to wait: the readiness probe says for what."""
        pause = 0.5
        while True:
            try:
                await start()
                self._waiting = ""
                return
            except Transient as error:
                self._waiting = f"{name} waits: {error}"
                log.warning("role.waiting", extra={"role": name, "error": type(error).__name__, "why": str(error)})
            await asyncio.sleep(pause)
            pause = min(pause * 2, 30.0)

    async def _follow(self) -> None:
        assert self._chain is not None
        async for event in self._chain.reader.events():
            for role in self._roles:
                for key in role.interested(event):
                    self.enqueue(key)

    async def _resync(self) -> None:
        for role in self._roles:
            try:
                for key in await role.resync():
                    self.enqueue(key)
            except VeilpodError as error:
                # Half a resync is a hint like any other; the next one is a minute away.
                log.warning("resync.failed", extra={"role": role.name, "error": type(error).__name__, "why": str(error)})

    async def _measure(self) -> None:
        loop, account = asyncio.get_running_loop(), AccountMetrics(self._metrics)
        while True:
            before = loop.time()
            await asyncio.sleep(_LAG_SECONDS)
            self._lag = loop.time() - before - _LAG_SECONDS
            self._metrics.loop_lag.set(self._lag)
            self._metrics.oldest.set(self.queue.oldest())
            depth = self.queue.depth()
            for kind in {kind for role in self._roles for kind in role.kinds}:
                self._metrics.depth.labels(kind).set(depth[kind])
            if self._chain is not None:
                self._metrics.chain_head.set(self._chain.head_age)
                await account.measure(self._chain)
