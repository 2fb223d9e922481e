"""One relay: its links, its circuits, and what they share (keys, cookies, directory, exit policy, counters).

Answers CREATE on links that others dialled, dials other relays to EXTEND, and knows nothing of who talks to whom beyond its two
neighbours. It dials only relays that its operator's directory lists, so a client cannot make it connect anywhere else. Paper step 5.
"""

import asyncio
import collections
import contextlib
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from veilpod.core.onion import ntor
from veilpod.core.onion.directory import RelayEntry
from veilpod.core.onion.geometry import GEOMETRY, MAX_HOPS, CellClass
from veilpod.core.onion.joining import open_onward
from veilpod.core.onion.layers import HopKeys
from veilpod.core.onion.link import Responder
from veilpod.core.onion.messages import Create, DestroyReason, Extend, parse_create
from veilpod.core.onion.reports import Side
from veilpod.errors import CircuitFailed, ProtocolViolation
from veilpod.net.budget import Budget
from veilpod.net.link import Link, Timing
from veilpod.net.links import LinkPool
from veilpod.net.streams import Hold
from veilpod.relay.circuit import NextHop, RelayCircuit
from veilpod.relay.exits import ExitPolicy, Exits
from veilpod.relay.keys import RelayKeys
from veilpod.relay.limits import RELAY_FACTOR, Bucket, Limits

log = logging.getLogger(__name__)


class Relay:
    """A running relay: `listen` opens its port, `close` ends it with everything that it owns."""

    def __init__(self, keys: RelayKeys | None = None, limits: Limits | None = None) -> None:
        self.keys = keys or RelayKeys()
        self.limits = limits or Limits()
        self.policy = ExitPolicy()
        self.draining = False
        self.counters: collections.Counter[str] = collections.Counter()
        self.circuits: set[RelayCircuit] = set()
        self.links: set[Link] = set()
        self.informed = False  # by its operator, who does so when it has listed the relay
        self._directory: dict[int, RelayEntry] = {}
        self._identities: frozenset[bytes] = frozenset()
        self._cookies: dict[bytes, RelayCircuit] = {}
        self._buckets: dict[Link, Bucket] = {}
        rate = self.limits.all_creates_per_second
        self._all_creates = Bucket(rate=rate, burst=int(2 * rate), clock=asyncio.get_running_loop().time)
        self._scratch = {kind: memoryview(bytearray(geometry.cell)) for kind, geometry in GEOMETRY.items()}
        self._budget = Budget(self.limits.queued_bytes, rate=self.limits.bandwidth)
        self._pool = LinkPool(self, identity=self.keys.identity, budget=self._budget)
        self._unread = Hold(self.limits.unread_bytes)
        self._tasks: set[asyncio.Task[None]] = set()
        self._handshaking = self._exiting = 0
        self._server: asyncio.Server | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def bandwidth(self) -> tuple[int, int]:
        """(bytes a second, bytes at once after a pause); 0 for no bound."""
        return self._budget.rate, self._budget.burst

    def carry(self, *, bandwidth: int, burst: int) -> None:
        """Carry so many bytes a second at most from now on, and `burst` at once after a pause."""
        self._budget.bound(rate=bandwidth, burst=burst)

    @property
    def queued(self) -> int:
        """Bytes that wait in the links' queues."""
        return self._budget.used

    async def listen(self, host: str, port: int) -> int:
        """Open the relay's port. Returns the one that was opened."""
        self._server = await asyncio.get_running_loop().create_server(self._accept, host, port, backlog=256)
        return int(self._server.sockets[0].getsockname()[1])

    def use_directory(self, entries: Sequence[RelayEntry]) -> None:
        """Take the operator's directory: the only relays that are dialled."""
        self._directory = {entry.node_id: entry for entry in entries if entry.identity_key != self.keys.identity_public}
        self._identities = frozenset(entry.identity_key for entry in self._directory.values())
        self.informed = True

    async def drain(self, seconds: float) -> None:
        """Take no new circuits and wait so long for those that are there to end by themselves."""
        self.draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._empty.wait()

    async def close(self) -> None:
        """Stop listening, close every link, end every task."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._pool.close()
        for link in list(self.links):
            link.abort()
        if self._server is not None:
            await self._server.wait_closed()

    # --- the links' calls

    def on_link_open(self, link: Link) -> None:
        self._handshaking -= not link.initiated
        self.links.add(link)
        rate, burst = self.limits.creates_per_second, self.limits.create_burst
        factor = RELAY_FACTOR if self._known(link) else 1
        self._buckets[link] = Bucket(rate=rate * factor, burst=burst * factor, clock=asyncio.get_running_loop().time)
        if not link.initiated:
            self._pool.adopt(link)

    def on_link_closed(self, link: Link) -> None:
        if link in self.links:
            self.links.discard(link)
            self._buckets.pop(link, None)
        elif not link.initiated:
            self._handshaking -= 1
        self._pool.forget(link)

    def on_create(self, link: Link, circ_id: int, payload: bytes) -> None:
        self.count("creates")
        try:
            create = parse_create(payload)
            reason = self._refusal(link, create)
            if reason is None:
                reason = self._join(link, circ_id, create)
        except ProtocolViolation as error:
            log.info("create.violation", extra={"reason": error.reason})
            reason = DestroyReason.PROTOCOL
        if reason is not None:
            self.count("creates_refused")
            link.send_destroy(circ_id, reason)

    # --- the circuits' calls

    def extend(self, circuit: RelayCircuit, extend: Extend) -> None:
        create = parse_create(extend.create)
        if create.position != circuit.position + 1 or create.position > MAX_HOPS or create.cell_class is not circuit.cell_class:
            raise ProtocolViolation("BadExtend", "an EXTEND that does not continue its circuit")
        entry = self._directory.get(extend.node_id)
        if entry is None or entry.identity_key != extend.identity_key:
            circuit.destroy(DestroyReason.EXTEND_REFUSED, Side.NEXT)
            return
        self._spawn(self._extend(circuit, entry, create))

    def leave_cookie(self, circuit: RelayCircuit, cookie: bytes) -> bool:
        if cookie in self._cookies or self.draining:
            return False
        self._cookies[cookie] = circuit
        return True

    def take_cookie(self, cookie: bytes) -> RelayCircuit | None:
        return self._cookies.pop(cookie, None)

    def scratch(self, cell_class: CellClass) -> memoryview:
        return self._scratch[cell_class]

    def exits(self, circuit: RelayCircuit) -> Exits:
        return Exits(
            circuit,
            circuit.cell_class,
            policy=self.policy,
            connect_seconds=self.limits.exit_seconds,
            spawn=self._spawn_exit,
            room=lambda: self._exiting < self.limits.exits,
            hold=self._unread,
        )

    def count(self, name: str) -> None:
        self.counters[name] += 1

    def gone(self, circuit: RelayCircuit) -> None:
        self.circuits.discard(circuit)
        if not self.circuits:
            self._empty.set()
        if circuit.cookie is not None and self._cookies.get(circuit.cookie) is circuit:
            del self._cookies[circuit.cookie]

    # --- inside

    def _accept(self) -> Link:
        shake = Responder(ephemeral=X25519PrivateKey.generate(), identity=self.keys.identity)
        link = Link(self, shake, budget=self._budget, timing=Timing(handshake=self.limits.handshake_seconds))
        if self._handshaking >= self.limits.handshaking or len(self.links) >= self.limits.links:
            self.count("links_refused")
            link.refuse()
        self._handshaking += 1
        return link

    def _known(self, link: Link) -> bool:
        return link.peer in self._identities

    def _refusal(self, link: Link, create: Create) -> DestroyReason | None:
        limit = self.limits.circuits_per_relay_link if self._known(link) else self.limits.circuits_per_link
        if self.draining:
            return DestroyReason.DRAINING
        if len(link.routes) >= limit or len(self.circuits) >= self.limits.circuits:
            return DestroyReason.RESOURCE
        if not self._buckets[link].take() or not self._all_creates.take():
            return DestroyReason.RESOURCE
        if not 1 <= create.position <= MAX_HOPS:
            return DestroyReason.PROTOCOL
        return None

    def _join(self, link: Link, circ_id: int, create: Create) -> DestroyReason | None:
        """Do the handshake and become a hop. Returns why not, or None."""
        skin = ntor.parse_onionskin(create.onionskin)
        key = self.keys.find(skin.onion_key)
        if key is None or skin.identity_key != self.keys.identity_public:
            return DestroyReason.UNKNOWN_KEY
        if key.seen.full:
            return DestroyReason.RESOURCE
        if not key.seen.first_time(skin.x25519):
            self.count("creates_replayed")
            return DestroyReason.REPLAYED
        target = ntor.Target(identity_key=skin.identity_key, onion_key=skin.onion_key, context=create.context)
        ephemeral = X25519PrivateKey.generate()
        answer = ntor.respond(target, static=key.private, client=skin, ephemeral=ephemeral, encapsulated=skin.encapsulate())
        onward = open_onward(create, answer.onward_key)
        hop = HopKeys(answer.seed)
        circuit = RelayCircuit(self, link, circ_id, keys=hop, cell_class=create.cell_class, position=create.position)
        link.routes[circ_id] = circuit
        self.circuits.add(circuit)
        self._empty.clear()
        try:
            circuit.join(answer.reply, onward)
        except ProtocolViolation:
            circuit.destroy(DestroyReason.PROTOCOL, Side.NONE)
        return None

    async def _extend(self, circuit: RelayCircuit, entry: RelayEntry, create: Create) -> None:
        try:
            # Each relay of a nested CREATE gives up before the one that waits for it, so that the one that hangs is blamed.
            async with asyncio.timeout(self.limits.extend_seconds / circuit.position):
                link = await self._pool.get(entry)
                if circuit.dead:
                    return
                hop = NextHop(circuit, link)
                try:
                    hop.create(create.pack())
                    await hop.answered
                finally:
                    if circuit.next is not hop:
                        hop.end()
        except (CircuitFailed, TimeoutError):
            circuit.destroy(DestroyReason.EXTEND_REFUSED, Side.NEXT)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _spawn_exit(self, work: Coroutine[Any, Any, None]) -> None:
        self._exiting += 1
        self._spawn(work).add_done_callback(lambda _: self._left())

    def _left(self) -> None:
        self._exiting -= 1

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # One circuit's defect must not take the relay with it; its text may name places.
            log.error("relay.defect", extra={"error": type(error).__name__})
