"""The life of a sandbox, top to bottom as the protocol tells it: observe, be born, meet, receive, run, deliver (paper steps 4 to 8).

Straight-line code over one conversation per module. It is driven by what the operator told (`Told` values, set by `service`), tells the
operator what happened (`emit`), and ends when everything is done or something failed; settling and dying belong to `service`.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from veilpod.agent import ceremony, confinement, delivery, failures, identity, meeting, netguard, state
from veilpod.agent.first_look import FirstLook
from veilpod.agent.identity import Identity
from veilpod.agent.inputs import Inputs
from veilpod.agent.link import Hooks
from veilpod.agent.mailbox import MailboxClient, Notes
from veilpod.agent.patience import PatientOnion
from veilpod.agent.peers import Peers
from veilpod.agent.program import Program
from veilpod.agent.settings import Settings
from veilpod.agent.state import Phase, State
from veilpod.agent.told import Told
from veilpod.core.agent_messages import Configuration, Exit, Failed, Flushed, Published
from veilpod.core.ceremony.words import Ceremony
from veilpod.core.ids import ServerIndex
from veilpod.core.meeting import Descriptor, ForPeer, ForStore, Offer, make_note, open_descriptor, parse_descriptors
from veilpod.core.task.spec import needed
from veilpod.core.tiers import check_promise
from veilpod.errors import ProtocolViolation, Refused, VeilpodError
from veilpod.ports import Onion, RendezvousPoint

_BLIND_LOOKS = 3  # observations in a row in which a canary could not be looked at
_PEER_SECONDS = 60.0  # for links to end after the program's deadline
_MISSED_SECONDS = 5.0  # in which a peer that ended is missed, after its streams went
_TROUBLE_SECONDS = 120.0  # so long after it was last met, a trouble with relays explains what did not happen in time

log = logging.getLogger(__name__)


class Control(Protocol):
    """What a life needs of the control stream."""

    tls_key: bytes

    def emit(self, event: str, data: Mapping[str, Any], /) -> int: ...
    async def room(self) -> None: ...


MakeOnion = Callable[[Callable[[], Configuration]], Onion]


class Life:
    """One sandbox. `run` goes through the stages; everything that others look at is an attribute."""

    def __init__(
        self,
        settings: Settings,
        control: Control,
        program: Program,
        make_onion: MakeOnion,
        first_look: FirstLook | None = None,
    ) -> None:
        self._settings, self._control, self._program, self._make_onion = settings, control, program, make_onion
        self._first_look = first_look
        self.state = State()
        self.moved = asyncio.Event()  # set at each change of the state
        self.configuration: Told[Configuration] = Told("the configuration")
        self.directory: Configuration | None = None  # the newest configuration, for its relays
        self.server_signature: Told[bytes] = Told("the server's signature")
        self.acceptance: Told[bytes] = Told("the acceptance")
        self.published: Told[Published] = Told("the published key")
        self.identity: Identity | None = None
        self.offers: list[Offer] = []
        self.peers: Peers | None = None
        self.notes: Notes | None = None
        self.verified = asyncio.Event()  # the startup probe may pass
        self._onion: Onion | None = None
        self._mailbox: MailboxClient | None = None
        self._lost_peers: list[ServerIndex] = []
        self._points: dict[meeting.Reader, RendezvousPoint] = {}
        self._trouble, self._trouble_at = "", 0.0
        self._group: asyncio.TaskGroup

    async def run(self) -> None:
        """Live until cancelled. A failure is told, and settled like a success."""
        async with asyncio.TaskGroup() as self._group:
            configuration = await self.configuration.wait()
            try:
                async with asyncio.timeout(configuration.spec.deadlines.total):
                    await self._stages(configuration)
            except TimeoutError:
                self.fail("DeadlineExceeded")
            except (VeilpodError, OSError, EOFError, ExceptionGroup) as error:
                failure = failures.failure_of(error, self.state.phase)
                self.fail(failure.code, peer=failure.peer)
            await self._settle()

    def fail(self, code: str, *, peer: ServerIndex | None = None) -> None:
        """The task is lost for this sandbox. Its channels can still be settled."""
        if not self.state.going:
            return
        if code in failures.TOO_LATE and self._trouble and asyncio.get_running_loop().time() - self._trouble_at < _TROUBLE_SECONDS:
            code, peer = self._trouble, None  # who cannot hear is in no place to blame others
        self._move(state.failed(self.state, code))
        log.warning("sandbox.failed", extra={"code": code, "phase": self.state.phase.name})
        self._control.emit("failed", Failed(code=code, peer=peer).document())
        if self.notes is not None:
            self.notes.put("Failed", code)
        self._program.stop()

    async def close(self) -> None:
        """Leave the network."""
        if self._mailbox is not None:
            await self._mailbox.close()
        if self._onion is not None:
            with contextlib.suppress(VeilpodError, OSError):
                await self._onion.close()

    # --- the stages

    async def _stages(self, configuration: Configuration) -> None:
        deadlines = configuration.spec.deadlines
        self._reach(Phase.CONFIGURED)

        # No key exists where the program could speak for itself, nor before the fence was seen to hold.
        confined = confinement.confines(configuration.spec.topology.ports, required=configuration.confinement_required)
        own = await self._be_born(configuration, confined=confined)
        onion, mailbox = self._connect(configuration, own)
        self._points = await meeting.build_rendezvous(onion, meeting.readers_of(configuration), seconds=deadlines.inputs)
        self._reach(Phase.READY)
        self._control.emit("ready", {})

        # Who else is there, and do all servers want this key?
        await self._meet(configuration, own, mailbox, seconds=deadlines.schedule + deadlines.inputs)
        published = await self.published.wait()
        meeting.check_published(published, meeting.collected(self.offers, own.group.address))
        self._reach(Phase.PUBLISHED)

        # From here on the clock of the computation runs.
        until = asyncio.get_running_loop().time() + deadlines.compute
        self._group.create_task(self._watch_fence(), name="fence")
        self._start_peers(configuration, own, onion, published)
        await self._receive(configuration, own, seconds=deadlines.compute)
        left = max(1, int(until - asyncio.get_running_loop().time()))
        ended = await self._compute(seconds=left)
        await self._finish(configuration, own, mailbox, ended)

    async def _be_born(self, configuration: Configuration, *, confined: bool) -> Identity:
        settings = self._settings
        check_promise(observed=settings.tier, promised=configuration.tier)
        seen = None if self._first_look is None else self._first_look.recent()
        if seen is None:
            seen = await netguard.wait_isolated(
                settings.allow, settings.canaries, seconds=settings.netguard_seconds, probe_seconds=settings.probe_seconds
            )
        self._control.emit("netguard", {"allowed": seen.allowed, "blocked": seen.blocked})
        self.identity = identity.create(
            configuration,
            secret=os.urandom(32),
            tls_key=self._control.tls_key,
            tier=settings.tier,
            confined=confined,
            allowed=seen.allowed,
            blocked=seen.blocked,
        )
        log.info("sandbox.born", extra={"incarnation": configuration.incarnation})
        return self.identity

    def _connect(self, configuration: Configuration, own: Identity) -> tuple[Onion, MailboxClient]:
        onion = self._make_onion(lambda: self.directory or configuration)
        self._onion = PatientOnion(onion, seconds=configuration.spec.deadlines.inputs, tell=self._troubled)
        self._mailbox = MailboxClient(self._onion, configuration.mailbox)
        self.notes = Notes(
            make=lambda event, code, time: make_note(
                task=configuration.task, index=configuration.index, event=event, code=code, time=time, key=own.signing
            )
        )
        self._group.create_task(self.notes.send(self._mailbox), name="notes")
        return self._onion, self._mailbox

    async def _meet(self, configuration: Configuration, own: Identity, mailbox: MailboxClient, *, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                signature = await self.server_signature.wait()
                offer = Offer(statement=own.statement, signature=own.signature, server_signature=signature)
                self.offers = await meeting.collect_offers(mailbox, configuration, offer, seconds=seconds)
                own.join(
                    await ceremony.make_key(
                        mailbox,
                        Ceremony.of(configuration.task, self.offers),
                        index=configuration.index,
                        signing=own.signing,
                        seconds=ceremony.patience(configuration),
                    )
                )
                self._reach(Phase.OFFERED)
                self._control.emit("offers", meeting.collected(self.offers, own.group.address).document())

                statements = [offer.statement for offer in self.offers]
                acceptance = meeting.make_acceptance(configuration, await self.acceptance.wait(), self._points, statements)
                await mailbox.ask("put-acceptance", acceptance.document(), seconds=seconds)
        except TimeoutError as error:
            raise Refused("MeetingTimeout", "the servers did not agree on the task key in time") from error
        self._reach(Phase.ACCEPTED)
        self._control.emit("accepted", {})

    def _start_peers(self, configuration: Configuration, own: Identity, onion: Onion, published: Published) -> None:
        hosts = meeting.hosts_of(configuration)
        descriptors: dict[ServerIndex, Descriptor] = {}
        for sealed in parse_descriptors(published.descriptors):
            if sealed.to == ForPeer(index=configuration.index):
                descriptor = open_descriptor(sealed, own.onion, task=configuration.task)
                descriptors[descriptor.sender] = descriptor
        if set(descriptors) != set(hosts):
            raise ProtocolViolation("StatementRefused", "the published descriptors do not lead to every peer", party="requester")
        points = {reader.index: point for reader, point in self._points.items() if isinstance(reader, ForPeer)}
        self.peers = Peers(
            configuration,
            identity=own,
            statements=[offer.statement for offer in self.offers],
            loopback=self._settings.loopback,
            hooks=Hooks(
                receipt=lambda peer, receipt: self._control.emit("receipt", {"peer": int(peer), "receipt": receipt.document()}),
                channel=lambda peer, payload: self._control.emit("channel", {"peer": int(peer), "payload": payload}),
                flushed=lambda _: None,
                room=self._control.room,
            ),
            lost=lambda peer: self._lost(configuration, peer),
        )
        self._group.create_task(self.peers.run(points, descriptors, onion), name="peers")

    async def _receive(self, configuration: Configuration, own: Identity, *, seconds: float) -> None:
        notes = self.notes
        assert notes is not None

        def progress(received: int, verified: int) -> None:
            self._control.emit("inputs", {"received": received, "verified": verified, "total": inputs.total})
            if received == inputs.total and verified == received - 1:
                notes.put("InputsDelivered")

        inputs = Inputs(
            configuration,
            root=self._settings.inputs,
            identity=own,
            server_signature=self.server_signature.get(),
            progress=progress,
        )
        points = [point for reader, point in self._points.items() if isinstance(reader, ForStore)]
        await inputs.receive_all(points, seconds=seconds)
        if not inputs.total:
            progress(0, 0)
        notes.put("InputsVerified")
        self._reach(Phase.VERIFIED)
        self.verified.set()

    async def _compute(self, *, seconds: int) -> Exit:
        def started() -> None:
            self._reach(Phase.RUNNING)
            self._control.emit("started", {})

        assert self.identity is not None
        ports, confined = self.configuration.get().spec.topology.ports, self.identity.statement.program_confined
        ended = await self._program.run(seconds=seconds, ports=ports, confined=confined, started=started)
        if failures.of_its_own(ended) and self.peers is not None:
            await self.peers.missed(seconds=_MISSED_SECONDS)  # whose fault it was: `_lost` is first then
        if self.state.phase is Phase.RUNNING and self.state.going:
            self._reach(Phase.EXITED)
        self._control.emit("exited", ended.document())
        failures.check_ending(ended)
        return ended

    async def _finish(self, configuration: Configuration, own: Identity, mailbox: MailboxClient, ended: Exit) -> None:
        assert self.notes is not None
        assert ended.success
        self.notes.put("Computed")
        if self.peers is not None:
            self.peers.finish()
        if configuration.spec.result.sender != configuration.index:
            return
        result = await delivery.make_result(configuration, own, out=self._settings.outputs, program_log=self._program.log)
        self._control.emit("result", result.info.document())
        await delivery.deliver(mailbox, configuration, result)
        self._control.emit("delivered", {})
        self.notes.put("ResultDelivered")

    async def _settle(self) -> None:
        """Wait for the links to end, whatever happened, and tell what passed on them."""
        links: list[tuple[ServerIndex, int, int]] = []
        if self.peers is not None:
            self.peers.finish()
            spec = self.configuration.get().spec
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(spec.deadlines.compute + _PEER_SECONDS):
                    await self.peers.settled()
            links = self.peers.counts()
        self._control.emit("flushed", Flushed(links=tuple(links)).document())

    # --- what goes on beside

    async def _watch_fence(self) -> None:
        settings, blind = self._settings, 0
        while self.state.going:
            await asyncio.sleep(settings.guard_seconds)
            seen = await netguard.observe(settings.allow, settings.canaries, probe_seconds=settings.probe_seconds)
            blind = blind + 1 if seen.verdict == "ProbeFailed" else 0
            if seen.verdict == "CanaryReachable" or blind >= _BLIND_LOOKS:
                self.fail("NetguardRefused")
            elif blind:
                log.warning("netguard.blind")  # not seen is not blocked; it is not open either, for a moment
            elif seen.verdict != "NetworkIsolated":
                log.warning("netguard.peers_silent")  # the relays are away; the fence holds

    def _troubled(self, trouble: str) -> None:
        if trouble:
            self._trouble_at = asyncio.get_running_loop().time()
        if trouble != self._trouble:
            self._trouble = trouble
            log.info("sandbox.relays", extra={"trouble": trouble})
            with contextlib.suppress(Refused):  # an operator that is away misses it, not more important things
                self._control.emit("relays", {"trouble": trouble})

    def _lost(self, configuration: Configuration, peer: ServerIndex) -> None:
        if not self.state.going or self.state.phase >= Phase.RELEASED:
            return
        self._lost_peers.append(peer)
        log.warning("sandbox.peer_lost", extra={"peer": int(peer)})
        if self.state.phase < Phase.EXITED and needed(configuration.spec, self._lost_peers):
            self.fail("PeerLost", peer=peer)
        else:
            self._control.emit("failed", Failed(code="PeerLost", fatal=False, peer=peer).document())

    def _reach(self, phase: Phase) -> None:
        self._move(state.reached(self.state, phase))
        log.info("sandbox.phase", extra={"phase": phase.name})

    def _move(self, new: State) -> None:
        self.state = new
        self.moved.set()

    def released(self) -> None:
        """Everything that outlives the sandbox is persisted."""
        self._move(state.reached(self.state, Phase.RELEASED))

    def zeroised(self) -> None:
        """The keys are gone."""
        self._move(state.zeroised(self.state))
