"""Meeting: how two ends find each other at a relay, once and again, and agree on the keys of each leg (paper step 5).

The host leaves a cookie at a relay (ESTABLISH) and waits; the guest names it (JOIN) and the relay splices the two circuits, once. The
guest's onionskin goes through as MEET, the host's answer comes back as MET: an ntor handshake with the descriptor's service key. Then the
guest says LINK: this leg begins a session, or belongs to one whose key it has. The first cookie is the descriptor's; when that meeting
fails, or a session needs another leg, both ends look at the places that follow from the descriptor (`core.onion.legs`).
"""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from veilpod.core.ids import NodeId
from veilpod.core.onion import ntor
from veilpod.core.onion.layers import HopKeys
from veilpod.core.onion.legs import Numbers, Place, parse_link, verify_link
from veilpod.core.onion.messages import Create, Created, Message, RelayCommand, pack_join, parse_created
from veilpod.errors import CircuitFailed, PeerUnavailable, ProtocolViolation, VeilpodError
from veilpod.net.circuit import Circuit
from veilpod.net.leg import Leg
from veilpod.net.session import MEND_SECONDS, OnionSession

log = logging.getLogger(__name__)
_MEET_SECONDS = 30.0
_AGAIN_SECONDS = 5.0  # at one of several places
_PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0)
_UNLINKED = 8


class End(Protocol):
    """What an onion proxy ends when it is closed."""

    def abort(self) -> None: ...


class Paths(Protocol):
    """What a meeting needs of its onion proxy."""

    @property
    def constant_rate(self) -> int:
        """Bytes a second of each leg, whatever is said; 0 for as they come."""

    async def build(self, purpose: str, *, last: NodeId, avoid: Collection[NodeId] = ()) -> Circuit: ...
    def places(self, *, cookie: bytes, service_key: bytes, avoid: Collection[NodeId]) -> Sequence[Place]: ...
    def watch(self, end: End) -> None:
        """Abort it when the proxy is closed."""


class HostPoint:
    """A cookie that waits at a relay, and later the place to meet again; implements ports.RendezvousPoint."""

    def __init__(self, paths: Paths, circuit: Circuit, *, cookie: bytes, service: X25519PrivateKey, expires: int) -> None:
        self.relay: NodeId = circuit.path[-1].node_id
        self.cookie, self.expires = cookie, expires
        self.service_key = ntor.public_bytes(service)
        self._paths, self._service = paths, service
        self._session: asyncio.Future[OnionSession] = asyncio.get_running_loop().create_future()
        self._key = b""  # by which further legs of the session are known
        self._unlinked: dict[bytes, Leg] = {}  # of guests who have not said whose they are, by the session that they would begin
        self._linked: asyncio.Queue[Leg] = asyncio.Queue()
        self._waiting: set[_Waiting] = set()
        self._moving: asyncio.Task[None] | None = None
        paths.watch(self)
        self._wait(circuit, cookie)

    async def accept(self) -> OnionSession:
        return await asyncio.shield(self._session)

    async def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        """Stop waiting. A session that has begun goes on."""
        if self._moving is not None:
            self._moving.cancel()
        self._fail(CircuitFailed("the rendezvous was closed"))
        self._leave()

    # --- what comes over the circuits that wait

    def meet(self, waiting: "_Waiting", skin: ntor.Onionskin) -> None:
        """Answer a guest. Its leg is used once it has said whose it is. Raises ProtocolViolation."""
        target = _target(waiting.circuit, waiting.cookie, self.service_key)
        if skin.identity_key != target.identity_key or skin.onion_key != target.onion_key:
            raise ProtocolViolation("BadHandshake", "a guest who looks for somebody else", party="guest")
        answer = ntor.respond(
            target, static=self._service, client=skin, ephemeral=X25519PrivateKey.generate(), encapsulated=skin.encapsulate()
        )
        self._waiting.discard(waiting)
        leg = Leg(waiting.circuit, HopKeys(answer.seed), guest=False, rate=self._paths.constant_rate)
        leg.owner = self
        if len(self._unlinked) >= _UNLINKED:
            self._unlinked.pop(next(iter(self._unlinked))).close()
        self._unlinked[leg.keys.session_id] = leg
        waiting.circuit.send_message(RelayCommand.MET, Created(reply=answer.reply).pack())

    def on_inner(self, leg: Leg, numbers: Numbers, message: Message) -> None:
        """Take the first word on a leg: LINK."""
        if message.command is not RelayCommand.LINK or numbers.number:
            raise ProtocolViolation("BadMessage", f"{message.command.name} on a leg that belongs to nobody", party="guest")
        name = parse_link(bytes(message.data))
        if self._session.done():
            if self._session.exception() is not None or name != self._session.result().id:
                raise ProtocolViolation("BadLink", "a leg of another session", party="guest")
            key = self._key
        else:
            if name not in self._unlinked:
                raise ProtocolViolation("BadLink", "a leg of a session that never began here", party="guest")
            key = self._unlinked[name].keys.leg_key
        verify_link(bytes(message.data), key=key, leg=leg.keys.session_id)
        for other in self._unlinked.values():
            if other is not leg:
                other.close()
        self._unlinked.clear()
        if self._session.done():
            self._session.result().attach(leg)  # at once: the session's messages may be in the next cell
            self._linked.put_nowait(leg)
        else:
            self._begin(leg, name, key)

    def on_leg_failed(self, leg: Leg, error: VeilpodError) -> None:
        """A guest who never said whose it was is gone."""
        self._move(error)

    def lost(self, waiting: "_Waiting", error: VeilpodError) -> None:
        """A circuit broke at which nobody had come."""
        self._waiting.discard(waiting)
        self._move(error)

    # --- inside

    def _wait(self, circuit: Circuit, cookie: bytes) -> "_Waiting":
        waiting = _Waiting(self, circuit, cookie)
        if circuit.error is None:
            self._waiting.add(waiting)
        return waiting

    def _begin(self, leg: Leg, name: bytes, key: bytes) -> None:
        self._key = key
        session = OnionSession(leg, session_id=name, guest=False, meet_again=self._meet_again)
        self._paths.watch(session)
        self._session.set_result(session)
        self._leave()

    def _move(self, error: VeilpodError) -> None:
        """Wait where the guest will look next."""
        if not self._session.done() and self._moving is None:
            log.info("rendezvous.moves")
            self._moving = asyncio.get_running_loop().create_task(self._wait_elsewhere(error))

    async def _wait_elsewhere(self, error: VeilpodError) -> None:
        try:
            async with asyncio.timeout(MEND_SECONDS), self._stand(()):
                await asyncio.wait([self._session])
        except TimeoutError:
            self._fail(error if isinstance(error, CircuitFailed) else CircuitFailed(f"the rendezvous is over: {error}"))

    async def _meet_again(self, avoid: Collection[NodeId]) -> Leg:
        async with self._stand(avoid):
            while True:
                leg = await self._linked.get()
                if leg.circuit.error is None:
                    return leg

    @contextlib.asynccontextmanager
    async def _stand(self, avoid: Collection[NodeId]) -> AsyncIterator[None]:
        """Wait at all places at once; leave those where nobody came in the end."""
        places = self._paths.places(cookie=self.cookie, service_key=self.service_key, avoid=avoid)
        standing = [asyncio.get_running_loop().create_task(self._stand_at(place, avoid)) for place in places]
        try:
            yield
        finally:
            for task in standing:
                task.cancel()
            self._leave()

    async def _stand_at(self, place: Place, avoid: Collection[NodeId]) -> None:
        for pause in _pauses():
            with contextlib.suppress(VeilpodError):
                circuit = await self._paths.build("rendezvous", last=place.relay, avoid=avoid)
                await establish(circuit, place.cookie, seconds=_AGAIN_SECONDS)
                await self._wait(circuit, place.cookie).over.wait()
            await asyncio.sleep(pause)

    def _leave(self) -> None:
        for waiting in list(self._waiting):
            waiting.circuit.close()

    def _fail(self, error: CircuitFailed) -> None:
        if not self._session.done():
            self._session.set_exception(error)
            self._session.exception()


class _Waiting:
    """A circuit with a cookie at its end. `over` is set when a guest came, or nobody can any more."""

    def __init__(self, host: HostPoint, circuit: Circuit, cookie: bytes) -> None:
        self.circuit, self.cookie = circuit, cookie
        self.over = asyncio.Event()
        self._host = host
        circuit.receiver = self
        if circuit.error is not None:
            self.on_failed(circuit.error)

    def on_message(self, message: Message) -> None:
        if message.command is not RelayCommand.MEET:
            raise ProtocolViolation("BadMessage", f"{message.command.name} at a waiting cookie", party="relay")
        self._host.meet(self, ntor.parse_onionskin(bytes(message.data)))
        self.over.set()

    def on_failed(self, error: VeilpodError) -> None:
        self.over.set()
        self._host.lost(self, error)


class Guest:
    """Who was given a descriptor."""

    def __init__(self, paths: Paths, *, relay: NodeId, cookie: bytes, service_key: bytes) -> None:
        self._paths, self._service_key = paths, service_key
        self._first = Place(relay=relay, cookie=cookie)
        self._name = self._key = b""

    async def join(self) -> OnionSession:
        """Meet the host where it said it would be, or where it went from there. Raises PeerUnavailable, CircuitFailed, Refused."""
        told: VeilpodError | None = None
        for place in itertools.chain([self._first], self._places(())):
            try:
                leg = await self._meet_at(place, (), seconds=_AGAIN_SECONDS if told else _MEET_SECONDS)
            except (PeerUnavailable, CircuitFailed) as error:
                told = told or error
                continue
            self._name, self._key = leg.keys.session_id, leg.keys.leg_key
            leg.link(self._name, self._key)
            session = OnionSession(leg, session_id=self._name, guest=True, meet_again=self._meet_again)
            self._paths.watch(session)
            return session
        assert told is not None
        raise told

    def _places(self, avoid: Collection[NodeId]) -> Sequence[Place]:
        return self._paths.places(cookie=self._first.cookie, service_key=self._service_key, avoid=avoid)

    async def _meet_again(self, avoid: Collection[NodeId]) -> Leg:
        for pause in _pauses():
            if (leg := await self._meet_anywhere(avoid)) is not None:
                leg.link(self._name, self._key)
                return leg
            await asyncio.sleep(pause)
        raise AssertionError  # the pauses have no end

    async def _meet_anywhere(self, avoid: Collection[NodeId]) -> Leg | None:
        """Look at all places at once."""
        looking = [asyncio.ensure_future(self._meet_at(place, avoid, seconds=_AGAIN_SECONDS)) for place in self._places(avoid)]
        pending, found = set(looking), None
        try:
            while pending and found is None:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for look in done:
                    with contextlib.suppress(PeerUnavailable, CircuitFailed):
                        found = look.result()
            return found
        finally:
            for look in looking:
                look.cancel()
                if look.done() and not look.cancelled() and look.exception() is None and look.result() is not found:
                    look.result().close()

    async def _meet_at(self, place: Place, avoid: Collection[NodeId], *, seconds: float) -> Leg:
        circuit = await self._paths.build("meeting", last=place.relay, avoid=avoid)
        try:
            joining = _Joining(circuit, _target(circuit, place.cookie, self._service_key), rate=self._paths.constant_rate)
            circuit.send_message(RelayCommand.JOIN, pack_join(place.cookie, joining.onionskin))
            async with asyncio.timeout(seconds):
                return await joining.met
        except TimeoutError as error:
            circuit.silent()
            circuit.close()
            raise PeerUnavailable("who waits at the meeting relay does not answer") from error
        except BaseException:
            circuit.close()
            raise


class _Joining:
    """Waits for the host's answer."""

    def __init__(self, circuit: Circuit, target: ntor.Target, *, rate: int) -> None:
        self._circuit, self._target, self._ephemeral, self._rate = circuit, target, ntor.Ephemeral.generate(), rate
        self.onionskin = ntor.onionskin(target, self._ephemeral)
        self.met: asyncio.Future[Leg] = asyncio.get_running_loop().create_future()
        circuit.receiver = self
        if circuit.error is not None:
            self.on_failed(circuit.error)

    def on_message(self, message: Message) -> None:
        if message.command is not RelayCommand.MET or self.met.done():
            raise ProtocolViolation("BadMessage", f"{message.command.name} before a meeting", party="relay")
        seed = ntor.finish(self._target, parse_created(bytes(message.data)).reply, ephemeral=self._ephemeral)
        self.met.set_result(Leg(self._circuit, HopKeys(seed), guest=True, rate=self._rate))

    def on_failed(self, error: VeilpodError) -> None:
        """Nobody waits there, or not who was expected."""
        if not self.met.done():
            self.met.set_exception(error)
            self.met.exception()


async def establish(circuit: Circuit, cookie: bytes, *, seconds: float = _MEET_SECONDS) -> None:
    """Leave a cookie at the circuit's last relay. Raises CircuitFailed; the circuit is closed then."""
    try:
        async with asyncio.timeout(seconds):
            await circuit.ask(RelayCommand.ESTABLISH, cookie, RelayCommand.ESTABLISHED, timeout=_MEET_SECONDS)
    except TimeoutError as error:
        circuit.silent()
        circuit.close()
        raise CircuitFailed("a meeting relay did not answer in time") from error
    except BaseException:
        circuit.close()
        raise


def _pauses() -> Iterator[float]:
    return itertools.chain(_PAUSES, itertools.repeat(_PAUSES[-1]))


def _target(circuit: Circuit, cookie: bytes, service_key: bytes) -> ntor.Target:
    # The cookie stands where a relay's identity does: the handshake is good for this meeting only.
    context = Create(cell_class=circuit.cell_class, position=0, key_epoch=0, onionskin=b"").context
    return ntor.Target(identity_key=cookie.ljust(32, b"\0"), onion_key=service_key, context=context)
