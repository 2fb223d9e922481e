"""The tower's eyes and its hand: looks at guarded channels whenever the chain may have changed, and answers what `decide` says.

Events are hints for which channel to look at; channels in dispute are looked at with every block, all of them at the start, after a
reorganisation and each minute. Truth is what is read. One answer per channel is under way at a time; that it is sent once, survives a
restart and is sent again when a reorganisation swallows it is the work of `veilpod.chain`.
"""

import asyncio
import dataclasses
import logging
import time
from collections.abc import Iterable

from veilpod.chain import Chain
from veilpod.chain.outbox import Settled
from veilpod.core.entities import ChainChannel, ChannelPhase
from veilpod.core.ids import ChannelId
from veilpod.errors import ChainRejected, Refused, Transient, VeilpodError
from veilpod.watchtower.decide import Guard, Verdict, answered, decide
from veilpod.watchtower.guards import Guards
from veilpod.watchtower.purse import Purse

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.25
SWEEP_SECONDS = 60.0
RETAIN_SECONDS = 86_400  # of chain time for which a closed session is remembered: longer than any reorganisation
_AT_ONCE = 16


@dataclasses.dataclass(slots=True, kw_only=True)
class Tally:
    """What happened since the start."""

    answers: int = 0
    lost: int = 0  # answers that were refused or reverted: somebody else was faster, or too late
    missed: int = 0  # disputes whose time ran out with an older state than ours


class Watch:
    """Watches one chain for the channels of one tower. `run` it; `look_at` a channel whose guard changed."""

    def __init__(self, *, chain: Chain, guards: Guards, purse: Purse) -> None:
        self._chain, self._guards, self._purse = chain, guards, purse
        self._hints: set[ChannelId] = set()
        self._answering: set[ChannelId] = set()
        self._over: dict[ChannelId, int] = {}
        self._missed: set[ChannelId] = set()
        self._swept_at = float("-inf")
        self._seen = (-1, -1)
        self._group: asyncio.TaskGroup
        self.disputed: dict[ChannelId, int] = {}  # -> deadline
        self.owed: dict[ChannelId, int] = {}  # -> deadline; what should be answered now
        self.cap_reached = False
        self.tally = Tally()

    def look_at(self, channel: ChannelId) -> None:
        """Look at a channel soon."""
        self._hints.add(channel)

    def is_over(self, channel: ChannelId) -> bool:
        """Whether the session that is guarded was seen closed."""
        return channel in self._over

    def last_answer(self, channel: ChannelId) -> Settled | None:
        """The newest settled answer of this key for a channel."""
        return next((line for line in reversed(self._chain.history()) if line.intent == _intent(channel)), None)

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            self._group.create_task(self._follow(), name="watch.events")
            while True:
                try:
                    await self._look()
                except VeilpodError as error:
                    log.warning("watch.look_failed", extra={"error": type(error).__name__, "why": str(error)})
                await asyncio.sleep(LOOK_SECONDS)

    async def _follow(self) -> None:
        async for event in self._chain.reader.events():
            if event.contract == "ChannelManager" and self._guards.find(ChannelId(event.subject)) is not None:
                self._hints.add(ChannelId(event.subject))

    async def _look(self) -> None:
        head = (self._chain.head_block, self._chain.reorgs)
        sweep = self._chain.reorgs != self._seen[1] or time.monotonic() - self._swept_at >= SWEEP_SECONDS
        if head == self._seen and not sweep and not self._hints:
            return
        now = await self._chain.reader.now()
        channels = set(self._guards.all) if sweep else self._hints | set(self.disputed)
        self._hints = set()
        await self._look_at_all(channels, now)
        self._purse.count(now)
        self.cap_reached = self.cap_reached and self._purse.left(now) < self._purse.answer_cost
        self._seen = head
        if sweep:
            self._swept_at = time.monotonic()

    async def _look_at_all(self, channels: Iterable[ChannelId], now: int) -> None:
        waiting = sorted(channels, key=lambda channel: self.disputed.get(channel, 1 << 62))  # the nearest deadline first
        while waiting:
            batch, waiting = waiting[:_AT_ONCE], waiting[_AT_ONCE:]
            outcomes = await asyncio.gather(*(self._look_at_one(channel, now) for channel in batch), return_exceptions=True)
            for channel, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, BaseException):
                    self._hints |= {channel, *waiting}
                    raise outcome

    async def _look_at_one(self, channel: ChannelId, now: int) -> None:
        guard = self._guards.find(channel)
        if guard is None:
            self._forget(channel)
            return
        chain = await self._chain.reader.channel(channel)
        verdict = decide(guard, chain, now=now)
        self._note(guard, chain, verdict, now)
        match verdict:
            case Verdict.ANSWER if channel not in self._answering:
                self._answering.add(channel)
                self._group.create_task(self._answer(guard, now), name="watch.answer")
            case Verdict.OVER:
                # A reorganisation may open the session again: it is kept for a while.
                if now - self._over.setdefault(channel, now) >= RETAIN_SECONDS:
                    await self._drop(channel, "guard.closed")
            case Verdict.NOTHING if guard.until < now and channel not in self.disputed:
                await self._drop(channel, "guard.expired")

    def _note(self, guard: Guard, chain: ChainChannel, verdict: Verdict, now: int) -> None:
        channel = chain.id
        if verdict is not Verdict.OVER:
            self._over.pop(channel, None)
        running = chain.phase is ChannelPhase.DISPUTED and now <= chain.deadline
        _keep(self.disputed, channel, chain.deadline if running else None)
        _keep(self.owed, channel, chain.deadline if verdict in (Verdict.ANSWER, Verdict.SPENT) else None)
        behind = chain.epoch == guard.held.state.epoch and chain.sequence < guard.held.state.sequence
        if chain.phase is ChannelPhase.DISPUTED and not running and behind and channel not in self._missed:
            self._missed.add(channel)
            self.tally.missed += 1
            log.critical("watch.missed", extra={"channel": channel.hex()})

    async def _answer(self, guard: Guard, now: int) -> None:
        place, channel = guard.held.place, guard.held.place.channel
        try:
            with self._purse.reserve(_intent(channel), now):
                async with self._guards.turn(channel) as newest:
                    guard = answered(newest or guard)
                    if guard != newest:
                        await self._guards.write(guard)
                held = guard.held
                log.info("watch.answering", extra={"channel": channel.hex(), "version": held.state.version})
                await self._chain.writer.respond(place.a, place.b, place.terms, held.state, held.signature_a, held.signature_b)
            self.tally.answers += 1
            log.info("watch.answered", extra={"channel": channel.hex(), "version": guard.held.state.version})
        except Refused as error:
            if not self.cap_reached:  # said once; the metric goes on saying it
                log.critical("watch.refused", extra={"channel": channel.hex(), "reason": error.reason, "why": str(error)})
            self.cap_reached = True
        except ChainRejected as error:
            self.tally.lost += 1
            log.info("watch.overtaken", extra={"channel": channel.hex(), "reason": error.reason})
        except Transient as error:
            log.warning("watch.answer_waits", extra={"channel": channel.hex(), "why": str(error)})
        except VeilpodError as error:
            log.error("watch.answer_failed", extra={"channel": channel.hex(), "error": type(error).__name__, "why": str(error)})
        finally:
            self._answering.discard(channel)

    async def _drop(self, channel: ChannelId, event: str) -> None:
        async with self._guards.turn(channel):
            self._guards.drop(channel)
        self._forget(channel)
        log.info(event, extra={"channel": channel.hex()})

    def _forget(self, channel: ChannelId) -> None:
        for known in (self.disputed, self.owed, self._over):
            known.pop(channel, None)
        self._missed.discard(channel)


def _intent(channel: ChannelId) -> str:
    return f"respond:{channel.hex()}"  # the writer's name for it


def _keep(known: dict[ChannelId, int], channel: ChannelId, value: int | None) -> None:
    if value is None:
        known.pop(channel, None)
    else:
        known[channel] = value
