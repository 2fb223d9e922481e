"""The guest of a meeting: it was given a descriptor, and looks for its host where that leads (paper step 5)."""

import asyncio
import contextlib
import itertools
from collections.abc import Collection, Sequence

from veilpod.core.ids import NodeId
from veilpod.core.onion import ntor
from veilpod.core.onion.layers import HopKeys
from veilpod.core.onion.legs import Place
from veilpod.core.onion.messages import Message, RelayCommand, pack_join, parse_created
from veilpod.errors import CircuitFailed, PeerUnavailable, ProtocolViolation, VeilpodError
from veilpod.net.circuit import Circuit
from veilpod.net.leg import Leg
from veilpod.net.meeting import AGAIN_SECONDS, MEET_SECONDS, PAUSES, Paths, target_of
from veilpod.net.pauses import pauses
from veilpod.net.session import OnionSession


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
                leg = await self._meet_at(place, (), seconds=AGAIN_SECONDS if told else MEET_SECONDS)
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
        for pause in pauses(*PAUSES):
            if (leg := await self._meet_anywhere(avoid)) is not None:
                leg.link(self._name, self._key)
                return leg
            await asyncio.sleep(pause)
        raise AssertionError  # the pauses have no end

    async def _meet_anywhere(self, avoid: Collection[NodeId]) -> Leg | None:
        """Look at all places at once."""
        looking = [asyncio.ensure_future(self._meet_at(place, avoid, seconds=AGAIN_SECONDS)) for place in self._places(avoid)]
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
            joining = _Joining(circuit, target_of(circuit, place.cookie, self._service_key), rate=self._paths.constant_rate)
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
