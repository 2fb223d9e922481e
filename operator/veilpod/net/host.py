"""The host of a meeting: it waits under a cookie, answers guests, and stands at the next places when a session needs it (paper step 5)."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Collection

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from veilpod.core.ids import NodeId
from veilpod.core.onion import ntor
from veilpod.core.onion.layers import HopKeys
from veilpod.core.onion.legs import Numbers, Place, parse_link, verify_link
from veilpod.core.onion.messages import Created, Message, RelayCommand
from veilpod.errors import CircuitFailed, ProtocolViolation, VeilpodError
from veilpod.net.circuit import Circuit
from veilpod.net.leg import Leg
from veilpod.net.meeting import AGAIN_SECONDS, MEET_SECONDS, PAUSES, Paths, target_of
from veilpod.net.pauses import pauses
from veilpod.net.session import MEND_SECONDS, OnionSession

log = logging.getLogger(__name__)
_UNLINKED = 8  # legs of guests who have not said whose they are


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
        target = target_of(waiting.circuit, waiting.cookie, self.service_key)
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
        for pause in pauses(*PAUSES):
            with contextlib.suppress(VeilpodError):
                circuit = await self._paths.build("rendezvous", last=place.relay, avoid=avoid)
                await establish(circuit, place.cookie, seconds=AGAIN_SECONDS)
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


async def establish(circuit: Circuit, cookie: bytes, *, seconds: float = MEET_SECONDS) -> None:
    """Leave a cookie at the circuit's last relay. Raises CircuitFailed; the circuit is closed then."""
    try:
        await circuit.ask(RelayCommand.ESTABLISH, cookie, RelayCommand.ESTABLISHED, timeout=seconds)
    except BaseException:
        circuit.close()
        raise
