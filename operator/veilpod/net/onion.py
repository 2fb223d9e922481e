"""The onion proxy: what agents, stores and clients use of the network. Implements ports.Onion.

Every stream and meeting gets a circuit of its own. Up to two guards are kept for the proxy's life, so that many circuits do not mean many
first hops that could link us. A circuit that cannot be built is tried again over other relays a few times; the number of hops and the
rule of different owners are never relaxed. Relays that work are drawn more often than those that are blamed (`core.onion.reputation`).
Paper step 5.
"""

import asyncio
import collections
import itertools
import logging
import os
import random
import time
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from veilpod.core.endpoint import spell_endpoint
from veilpod.core.ids import NodeId
from veilpod.core.onion.directory import RelayEntry, fresh
from veilpod.core.onion.geometry import COOKIE, CellClass
from veilpod.core.onion.legs import Place, places
from veilpod.core.onion.messages import Message
from veilpod.core.onion.paths import choose_path
from veilpod.core.onion.reputation import Reputation
from veilpod.core.onion.trouble import trouble_of
from veilpod.errors import CircuitFailed, ProtocolViolation, Refused, VeilpodError
from veilpod.net.budget import Budget
from veilpod.net.circuit import Circuit, CircuitSummary, Trace
from veilpod.net.guest import Guest
from veilpod.net.host import HostPoint, establish
from veilpod.net.link import Link
from veilpod.net.links import LinkPool
from veilpod.net.meeting import End
from veilpod.net.mux import Mux
from veilpod.net.session import OnionSession
from veilpod.net.streams import Hold, MuxStream

log = logging.getLogger(__name__)
_ATTEMPTS = 4
_GUARDS = 2
_GUARD_TRUST = 0.5
_UNREAD = 64 << 20
_TRACE_EVERY = 0.5  # seconds
RENDEZVOUS_SECONDS = 3600


class OnionProxy:
    """An onion proxy over a directory that may change under it. `trace` is for demonstrations only: it learns paths.

    `constant_rate`: bytes a second that each leg of a session sends, whatever is said; both ends must have the same.
    """

    def __init__(
        self,
        *,
        directory: Callable[[], Sequence[RelayEntry]],
        hops: int,
        in_cluster: bool,
        constant_rate: int = 0,
        trace: Trace | None = None,
        cell_class: CellClass = CellClass.BULK,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory, self._hops, self._in_cluster, self._trace = directory, hops, in_cluster, trace
        self._cell_class, self._clock, self.constant_rate = cell_class, clock, constant_rate
        self._chance = random.SystemRandom().random
        self._links = LinkPool(self, identity=None, budget=Budget())
        self._guards: list[NodeId] = []
        self._reputation = Reputation()
        self._circuits: set[Circuit] = set()
        self._ends: weakref.WeakSet[End] = weakref.WeakSet()
        self._numbers = itertools.count(1)
        self._closed = False
        self.on_trouble: Callable[[str], object] | None = None

    # --- ports.Onion

    async def open(self, host: str, port: int) -> MuxStream:
        endpoint = spell_endpoint(host, port)
        refusals: dict[NodeId, Refused] = {}
        while True:
            circuit = await self._build_exit(refusals)
            try:
                return await _ExitStreams(circuit).mux.open(endpoint.encode())
            except Refused as error:
                # Each owner decides where its relay exits to; another last hop may allow it.
                circuit.close()
                refusals[circuit.path[-1].node_id] = error
                if len(refusals) == _ATTEMPTS:
                    raise
            except BaseException:
                circuit.close()
                raise

    async def rendezvous(self) -> HostPoint:
        circuit, cookie = await self._build("rendezvous"), os.urandom(COOKIE)
        await establish(circuit, cookie)
        expires = int(self._clock()) + RENDEZVOUS_SECONDS
        return HostPoint(self, circuit, cookie=cookie, service=X25519PrivateKey.generate(), expires=expires)

    async def connect(self, *, relay: NodeId, cookie: bytes, service_key: bytes) -> OnionSession:
        return await Guest(self, relay=relay, cookie=cookie, service_key=service_key).join()

    async def close(self) -> None:
        self._closed = True
        for end in list(self._ends):
            end.abort()
        for circuit in list(self._circuits):
            circuit.close()
        await self._links.close()

    # --- the meetings' calls

    async def build(self, purpose: str, *, last: NodeId, avoid: Collection[NodeId] = ()) -> Circuit:
        """Build a circuit to a meeting relay, over none of the relays to avoid. Raises Refused, CircuitFailed."""
        return await self._build(purpose, last=last, avoid=avoid)

    def places(self, *, cookie: bytes, service_key: bytes, avoid: Collection[NodeId]) -> Sequence[Place]:
        """Where the two ends of a descriptor look for each other, among the relays that are usable now."""
        now = self._clock()
        usable = [entry.node_id for entry in self._directory() if fresh(entry, now) and entry.node_id not in avoid]
        return places(usable, cookie=cookie, service_key=service_key)

    def watch(self, end: End) -> None:
        """Abort it when this proxy is closed, unless nobody has it any more."""
        self._ends.add(end)

    # --- the links' calls

    def on_create(self, link: Link, circ_id: int, payload: bytes) -> None:
        raise ProtocolViolation("BadMessage", "a relay asks a client to be one", party="relay")

    def on_link_open(self, link: Link) -> None: ...

    def on_link_closed(self, link: Link) -> None:
        self._links.forget(link)

    # --- inside

    async def _build_exit(self, refusals: Mapping[NodeId, Refused]) -> Circuit:
        try:
            return await self._build("exit", not_last=refusals)
        except Refused as error:
            # No path is left that ends anywhere else: what the exits said is the reason.
            raise next(iter(refusals.values()), error) from error

    async def _build(
        self, purpose: str, *, last: NodeId | None = None, not_last: Collection[NodeId] = (), avoid: Collection[NodeId] = ()
    ) -> Circuit:
        blame: collections.Counter[NodeId] = collections.Counter()
        for attempt in itertools.count(1):
            if self._closed:
                raise CircuitFailed("the onion proxy is closed")
            path = choose_path(
                self._directory(),
                hops=self._hops,
                now=self._clock(),
                chance=self._chance,
                weigh=lambda usable: self._reputation.weights(usable, now=_now()),
                predict=self._reputation.predict if self._reputation.measured else None,
                in_cluster=self._in_cluster,
                last=last,
                guards=self._guards,
                blame=blame,
                not_last=not_last,
                avoid=avoid,
            )
            try:
                return await self._build_over(path, purpose)
            except CircuitFailed as error:
                log.info("circuit.build_failed", extra={"attempt": attempt})
                if self.on_trouble is not None:
                    self.on_trouble(trouble_of(error))  # four attempts at relays that stall outlast many a deadline
                self._count(error)
                # For the rest of this attempt they come last; later circuits draw them as their reputation says.
                reporter, silent = error.blamed or (0, 0)
                blame.update(NodeId(node) for node in (reporter, silent, silent) if node)
                self._guards = [guard for guard in self._guards if guard not in (error.blamed or ())]
                if attempt == _ATTEMPTS:
                    raise
        raise AssertionError  # the loop has no other end

    def _suspect(self, path: Sequence[RelayEntry]) -> None:
        relays = [entry.node_id for entry in path]
        self._reputation.suspected(relays, now=_now())
        self._guards = [guard for guard in self._guards if guard not in relays]

    async def _build_over(self, path: Sequence[RelayEntry], purpose: str) -> Circuit:
        try:
            link = await self._links.get(path[0])
        except CircuitFailed as error:
            raise CircuitFailed(str(error), blamed=(0, int(path[0].node_id))) from error
        circuit = Circuit(link, path, self._cell_class)
        begun = _now()
        await circuit.build()
        self._reputation.built([entry.node_id for entry in path], seconds=_now() - begun)
        self._circuits.add(circuit)
        if path[0].node_id not in self._guards and len(self._guards) < _GUARDS:
            self._guards.append(path[0].node_id)
        watch = _Watch(circuit, purpose, next(self._numbers), self._trace)
        circuit.on_traffic = watch.busy if self._trace is not None else None
        before = circuit.bytes_received
        circuit.on_closed = lambda: self._ended(circuit, watch, before)
        circuit.on_silent = lambda: self._suspect(path)
        watch.tell("built")
        return circuit

    def _ended(self, circuit: Circuit, watch: "_Watch", before: int) -> None:
        self._circuits.discard(circuit)
        if not self._count(circuit.error) and circuit.bytes_received > before:
            # Its last relay answered, so all of them carried. One that was built and brought nothing says nothing.
            self._reputation.worked([entry.node_id for entry in circuit.path], now=_now())
        watch.tell("closed")

    def _count(self, error: VeilpodError | None) -> bool:
        """Count a failure against the link that it names, if it names one."""
        blamed = error.blamed if isinstance(error, CircuitFailed) else None
        if blamed is not None:
            self._reputation.failed(blamed, now=_now())
            # A guard on whose circuits most goes wrong, whomever it accuses, would be first on all that follow.
            self._guards = [guard for guard in self._guards if self._reputation.trust(guard, now=_now()) >= _GUARD_TRUST]
        return blamed is not None


def _now() -> float:
    return asyncio.get_running_loop().time()


class _ExitStreams:
    """The streams of a circuit whose last relay exits; the circuit ends with its last stream."""

    def __init__(self, circuit: Circuit) -> None:
        self.mux = Mux(circuit, circuit.cell_class, first_id=1, on_begin=None, hold=Hold(_UNREAD))
        self.mux.on_empty = lambda: self.mux.close(circuit.close)
        circuit.receiver = self

    def on_message(self, message: Message) -> None:
        self.mux.handle(message)

    def on_failed(self, error: VeilpodError) -> None:
        self.mux.fail(error if isinstance(error, CircuitFailed) else CircuitFailed(f"the circuit is over: {error}"))


class _Watch:
    """Tells a demonstration about one circuit, at most twice a second while it is busy."""

    def __init__(self, circuit: Circuit, purpose: str, number: int, trace: Trace | None) -> None:
        self._circuit, self._purpose, self._number, self._trace = circuit, purpose, number, trace
        self._told = 0.0

    def busy(self) -> None:
        """Bytes moved."""
        if (now := time.monotonic()) - self._told >= _TRACE_EVERY:
            self._told = now
            self.tell("busy")

    def tell(self, state: str) -> None:
        """Call `trace`, if there is one."""
        if self._trace is None:
            return
        circuit = self._circuit
        self._trace(
            CircuitSummary(
                number=self._number,
                purpose=self._purpose,
                relays=tuple(entry.node_id for entry in circuit.path),
                state=state,
                bytes_sent=circuit.bytes_sent,
                bytes_received=circuit.bytes_received,
            )
        )
