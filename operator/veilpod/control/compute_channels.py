"""StateChannels of this server: each is one obligation on chain, reconciled by itself until the money is home. Paper steps 3 and 11."""

import functools
from collections.abc import Collection, Iterable
from typing import Any

from veilpod.chain.journal import Journal
from veilpod.control import performing, status
from veilpod.control.channel_desk import ChannelDesk
from veilpod.control.compute_view import ChannelObject, View, parse_channel
from veilpod.control.context import Context
from veilpod.control.money import Exposure, exposure
from veilpod.control.watchtowers import Watchtowers
from veilpod.core.canonical import to_hex
from veilpod.core.channel import dispute
from veilpod.core.entities import ChainChannel, ChannelPhase, channel_version
from veilpod.core.guard import Place
from veilpod.core.ids import ChannelId
from veilpod.core.kinds import STATE_CHANNELS
from veilpod.core.task import plan as do
from veilpod.core.task.conditions import Status, Type
from veilpod.core.task.decide import decide_channel
from veilpod.core.task.plan import Effect, Plan
from veilpod.core.task.snapshot import ChannelSnapshot, Seen, Unknown
from veilpod.errors import ChainRejected, InsufficientFunds, Transient

ROUNDS = 6


class Channels:
    """Reconciles StateChannels."""

    def __init__(self, context: Context, *, view: View, desk: ChannelDesk, journal: Journal, towers: Watchtowers) -> None:
        self._context, self._view, self._desk, self._journal, self._towers = context, view, desk, journal, towers
        self._open: dict[str, ChannelObject] = {}  # what is not settled, by name
        self._exposures: dict[str, Exposure] = {}

    def using(self, channel: ChannelId) -> Iterable[tuple[str, str]]:
        """The objects of a channel that are not settled, and the assignments that need them."""
        return [(name, found.assignment) for name, found in self._open.items() if found.channel == channel]

    def of_assignment(self, assignment: str) -> Iterable[str]:
        """The objects of an assignment's channels that are not settled."""
        return [name for name, found in self._open.items() if found.assignment == assignment]

    def exposures(self) -> Iterable[Exposure]:
        """What our channels have at stake, as they were last seen."""
        return self._exposures.values()

    async def reconcile(self, name: str) -> float | None:
        """Observe, decide, act, write the status once."""
        before: tuple[Effect, ...] | None = None
        for _ in range(ROUNDS):
            body = await self._context.cluster.get(STATE_CHANNELS, name, namespace=self._context.config.namespace)
            if body is None:
                self._exposures.pop(name, None)
                self._open.pop(name, None)
                return None
            channel = parse_channel(body)
            self._open[name] = channel
            snapshot = await self._view.observe_channel(body, channel, self._desk)
            self._guard(channel, snapshot.chain)
            if not isinstance(snapshot.chain, Unknown):
                newest = self._desk.newest(channel.channel, channel.session)
                self._exposures[name] = exposure(snapshot.chain, newest, is_a=snapshot.is_a, terms=channel.terms)
            plan = decide_channel(snapshot, self._context.clock())
            if not plan.effects or plan.effects == before:
                again = await self._write(body, channel, snapshot, plan, at_once=(Type.SETTLED,))
                if plan.claims[Type.SETTLED].status is Status.TRUE:
                    self._open.pop(name, None)
                return again
            for effect in plan.effects:
                act = functools.partial(self._perform, effect, body, channel, snapshot)
                try:
                    await performing.perform(self._context, STATE_CHANNELS, name, effect, act)
                except InsufficientFunds as error:
                    await self._write(body, channel, snapshot, status.told(plan, effect, error))
                    raise
            if any(isinstance(effect, do.RemoveFinalizer) for effect in plan.effects):
                return None
            before = plan.effects
        return 1.0

    def _guard(self, channel: ChannelObject, chain: Seen[ChainChannel]) -> None:
        """What the towers may not know yet: after a restart, or when a tower was configured later than the channel."""
        newest = self._desk.newest(channel.channel, channel.session)
        if isinstance(chain, Unknown) or newest is None:
            return
        if chain.phase is ChannelPhase.CLOSED:
            self._towers.forget(channel.channel, channel.session)
        else:
            self._towers.offer(Place(a=channel.a, b=channel.b, terms=channel.terms), newest)

    async def _perform(self, effect: Effect, body: dict[str, Any], channel: ChannelObject, s: ChannelSnapshot) -> None:
        match effect:
            case do.AddFinalizer():
                await status.set_finalizer(self._context, STATE_CHANNELS, body, present=True)
            case do.RemoveFinalizer():
                await status.set_finalizer(self._context, STATE_CHANNELS, body, present=False)
            case _:
                assert not isinstance(s.chain, Unknown)
                try:
                    await self._on_chain(effect, channel, s.chain, s)
                except ChainRejected as error:
                    # The peer was faster, or the deposit is not there: the chain is read again.
                    raise Transient(f"{type(effect).__name__} was refused: {error}", retry_after=2) from error

    async def _on_chain(self, effect: Effect, channel: ChannelObject, chain: ChainChannel, s: ChannelSnapshot) -> None:
        writer, a, b, terms = self._context.writer, channel.a, channel.b, channel.terms
        newest = self._desk.newest(channel.channel, channel.session)
        match effect:
            case do.OpenChannel():
                await writer.open_channel(a, b, terms, deposit=channel.deposit, peer_deposit=channel.peer_deposit)
            case do.JoinChannel(epoch=epoch):
                await writer.join_channel(a, b, terms, epoch=epoch, deposit=channel.deposit)
            case do.CancelChannel():
                await writer.cancel_channel(a, b, terms)
            case do.CloseChannel():
                if final := dispute.closing(chain, newest):
                    await writer.close_channel(a, b, terms, final.state, final.close_a, final.close_b)
            case do.Challenge():
                if alone := dispute.challenging(chain, newest):
                    state, signed = alone
                    peers = (signed.signature_b if s.is_a else signed.signature_a) if signed else b""
                    await writer.challenge(a, b, terms, state, peers)
            case do.Respond():
                assert not isinstance(s.chain_now, Unknown)
                if answer := dispute.answer(chain, newest, now=s.chain_now):
                    await writer.respond(a, b, terms, answer.state, answer.signature_a, answer.signature_b)
            case do.Finalize():
                await writer.finalize(a, b, terms)
            case _:
                raise NotImplementedError(type(effect).__name__)

    async def _write(
        self, body: dict[str, Any], channel: ChannelObject, s: ChannelSnapshot, plan: Plan, *, at_once: Collection[Type] | None = None
    ) -> float | None:
        fields: dict[str, Any] = {}
        newest = self._desk.newest(channel.channel, channel.session)
        if newest is not None:
            state = newest.state
            fields = {
                "epoch": state.epoch,
                "sequence": state.sequence,
                "updates": state.sequence,
                "transcriptHead": to_hex(state.data_hash),
            }
            fields |= {"balanceA": str(state.balance_a), "balanceB": str(state.balance_b)}
        elif not isinstance(s.chain, Unknown):
            fields = {"epoch": s.chain.epoch, "sequence": s.chain.sequence}
            fields |= {"balanceA": str(s.chain.balance_a), "balanceB": str(s.chain.balance_b)}
        guarded = self._towers.held(channel.channel)
        if guarded is not None and newest is not None:
            first, last = channel_version(channel.session, 0), channel_version(channel.session + 1, 0)
            fields["guardedSequence"] = guarded - first if first <= guarded < last else 0
        phase = None if isinstance(s.chain, Unknown) else s.chain.phase.name.capitalize()
        return await status.write(self._context, STATE_CHANNELS, body, plan, fields, phase=phase, at_once=at_once)
