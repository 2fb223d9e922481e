"""Money as metrics: what is on the account, what is locked in channels, what gas has cost, how long an answer may still take.

No label names a channel, a task or a peer. Challenge windows are numbered: those first in which we owe an answer, of these the next to
end. Which of these numbers mean danger is for the chart's alerts.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Iterable

from veilpod.chain import Chain
from veilpod.control.context import Context
from veilpod.control.metrics import Metrics
from veilpod.core.channel import dispute
from veilpod.core.channel.records import Signed
from veilpod.core.entities import NATIVE, ChainChannel, ChannelPhase, ChannelTerms
from veilpod.core.ids import Address
from veilpod.errors import VeilpodError

WATCH_SECONDS = 5.0
WINDOWS = 16  # shown at most: the alert asks for the first
_HELD = (ChannelPhase.OPENING, ChannelPhase.OPEN, ChannelPhase.DISPUTED)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """One channel: what of it is ours (units of its asset), and the challenge window it is in (unix seconds, seconds), if any."""

    phase: ChannelPhase
    own: int
    asset: Address
    deadline: int
    period: int
    owed: bool  # we hold a newer state than the one the dispute is about


def exposure(chain: ChainChannel, newest: Signed | None, *, is_a: bool, terms: ChannelTerms) -> Exposure:
    """Say what a channel has at stake for one of its parties."""
    agreed = newest is not None and newest.complete and newest.state.epoch == chain.epoch
    balances = newest.state if newest is not None and agreed else chain
    return Exposure(
        phase=chain.phase,
        own=(balances.balance_a if is_a else balances.balance_b) if chain.phase in _HELD else 0,
        deadline=chain.deadline if chain.phase is ChannelPhase.DISPUTED else 0,
        asset=terms.asset,
        period=terms.challenge_period,
        owed=dispute.answer(chain, newest, now=0) is not None,
    )


class AccountMetrics:
    """What every role has: an account, and a connection to the chain. Counters go on from what was counted before."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._settled = self._reorgs = self._disagreements = self._foreign = 0

    async def measure(self, chain: Chain) -> None:
        """Look once. What cannot be asked for keeps its last value; its age is another metric."""
        metrics, history = self._metrics, chain.history()
        for line in history[self._settled :]:
            metrics.gas_spent.inc(line.fee)
            metrics.transactions.labels("succeeded" if line.succeeded else "reverted").inc()
        metrics.chain_reorgs.inc(chain.reorgs - self._reorgs)
        metrics.disagreements.inc(chain.disagreements - self._disagreements)
        metrics.foreign.inc(chain.foreign_transactions - self._foreign)
        self._settled, self._reorgs = len(history), chain.reorgs
        self._disagreements, self._foreign = chain.disagreements, chain.foreign_transactions
        metrics.pending.set(chain.pending_transactions)
        metrics.second_silence.set(chain.second_silence)
        with contextlib.suppress(VeilpodError):
            metrics.gas_price.set(chain.gas_price)
            metrics.balance.set(await chain.reader.balance(chain.writer.address))


async def watch(context: Context, exposures: Callable[[], Iterable[Exposure]]) -> None:
    """Show stake, channels and challenge windows, for ever. Give it to the background tasks."""
    while True:
        show(context.metrics, exposures(), now=context.clock())
        with contextlib.suppress(VeilpodError):
            free, locked = await context.reader.stake_of(context.writer.address)
            context.metrics.stake.labels("free").set(free)
            context.metrics.stake.labels("locked").set(locked)
        await asyncio.sleep(WATCH_SECONDS)


def show(metrics: Metrics, exposures: Iterable[Exposure], *, now: float) -> None:
    """Show channels and windows. A window whose operator cannot see the chain goes on closing: `now` is our own clock."""
    known = list(exposures)
    for phase in _HELD:
        metrics.channels.labels(phase.name.capitalize()).set(sum(1 for channel in known if channel.phase is phase))
    metrics.deposits.set(sum(channel.own for channel in known if channel.asset == NATIVE))
    metrics.token_deposits.clear()
    for token in {channel.asset for channel in known} - {NATIVE}:
        metrics.token_deposits.labels(token).set(sum(channel.own for channel in known if channel.asset == token))
    windows = sorted((channel for channel in known if channel.deadline), key=lambda channel: (not channel.owed, channel.deadline))
    metrics.window_left.clear()
    metrics.window_ratio.clear()
    for number, channel in enumerate(windows[:WINDOWS], start=1):
        labels, left = (str(number), "owed" if channel.owed else "none"), max(channel.deadline - now, 0)
        metrics.window_left.labels(*labels).set(left)
        metrics.window_ratio.labels(*labels).set(left / channel.period)
