"""What ChannelManager does, written down a second time from docs/protocol/channels.md: plain integers, no chain, no words, no gas.

Every operation returns whether it is allowed, and happens if it is. Parties are 0 (a) and 1 (b). What a signature is worth is the
caller's to say: the model gets who has consented.
"""

import dataclasses
from collections import Counter

from veilpod.core.entities import ChannelPhase

LIVE = (ChannelPhase.OPEN, ChannelPhase.DISPUTED)
FREE = (ChannelPhase.NONE, ChannelPhase.CLOSED)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What two parties sign."""

    epoch: int
    sequence: int
    balances: tuple[int, int]


@dataclasses.dataclass(slots=True, kw_only=True)
class Channel:
    """One channel. `actor` opened it or challenged."""

    asset: str
    period: int
    penalty_bps: int
    phase: ChannelPhase = ChannelPhase.NONE
    epoch: int = 0
    sequence: int = 0
    deadline: int = 0
    balances: tuple[int, int] = (0, 0)
    actor: int = 0
    fined: bool = False

    @property
    def locked(self) -> int:
        """What the contract owes for this channel."""
        if self.phase is ChannelPhase.OPENING:
            return self.balances[self.actor]
        return sum(self.balances) if self.phase in LIVE else 0

    @property
    def view(self) -> tuple[int, ...]:
        """What the contract shows."""
        return (self.phase, self.epoch, self.sequence, self.deadline, *self.balances)


@dataclasses.dataclass(slots=True, kw_only=True)
class Model:
    """All channels of two parties. `moved` is what each has received less what it has paid; `refusing` who cannot be paid now."""

    channels: tuple[Channel, ...]
    now: int
    moved: Counter[tuple[int, str]] = dataclasses.field(default_factory=Counter)
    credit: Counter[tuple[int, str]] = dataclasses.field(default_factory=Counter)
    refusing: set[tuple[int, str]] = dataclasses.field(default_factory=set)

    def held(self, asset: str) -> int:
        """Money in the contract: what is locked and what is credited."""
        credited = sum(amount for (_, of), amount in self.credit.items() if of == asset)
        return credited + sum(channel.locked for channel in self.channels if channel.asset == asset)

    def open(self, c: Channel, by: int, deposit: int, peer_deposit: int) -> bool:
        if c.phase not in FREE:
            return False
        balances = (deposit, peer_deposit) if by == 0 else (peer_deposit, deposit)
        self._begin(c, ChannelPhase.OPENING, balances, actor=by)
        self.moved[by, c.asset] -= deposit
        return True

    def join(self, c: Channel, by: int, epoch: int) -> bool:
        if c.phase is not ChannelPhase.OPENING or by == c.actor or epoch != c.epoch:
            return False
        c.phase = ChannelPhase.OPEN
        self.moved[by, c.asset] -= c.balances[by]
        return True

    def open_both(self, c: Channel, by: int, deposits: tuple[int, int], *, until: int, peer_signed: bool) -> bool:
        peer = 1 - by
        from_credit = c.asset == "ETH"
        if c.phase not in FREE or self.now > until or not peer_signed or (from_credit and self.credit[peer, c.asset] < deposits[peer]):
            return False
        self._begin(c, ChannelPhase.OPEN, deposits, actor=by)
        self.moved[by, c.asset] -= deposits[by]
        (self.credit if from_credit else self.moved)[peer, c.asset] -= deposits[peer]
        return True

    def cancel(self, c: Channel, by: int) -> bool:
        if c.phase is not ChannelPhase.OPENING or by != c.actor:
            return False
        self._settle(c, (c.balances[0] if by == 0 else 0, c.balances[1] if by == 1 else 0), c.sequence)
        return True

    def close(self, c: Channel, s: State, *, consent: bool) -> bool:
        if c.phase not in LIVE or not consent or not self._fits(c, s) or s.sequence < c.sequence:
            return False
        self._settle(c, s.balances, s.sequence)
        return True

    def challenge(self, c: Channel, by: int, s: State, *, peer_signed: bool) -> bool:
        if c.phase is not ChannelPhase.OPEN or not self._fits(c, s):
            return False
        if not (s.balances == c.balances if s.sequence == 0 else peer_signed):
            return False
        c.phase, c.actor, c.fined, c.deadline = ChannelPhase.DISPUTED, by, False, self.now + c.period
        c.sequence, c.balances = s.sequence, s.balances
        return True

    def respond(self, c: Channel, s: State, *, consent: bool) -> bool:
        if c.phase is not ChannelPhase.DISPUTED or self.now > c.deadline or not consent or not self._fits(c, s) or s.sequence <= c.sequence:
            return False
        c.fined |= s.sequence >= c.sequence + 2
        c.sequence, c.balances = s.sequence, s.balances
        return True

    def finalize(self, c: Channel) -> bool:
        if c.phase is not ChannelPhase.DISPUTED or self.now <= c.deadline:
            return False
        fine = min(c.balances[c.actor], sum(c.balances) * c.penalty_bps // 10_000) if c.fined else 0
        moved = -fine if c.actor == 0 else fine
        self._settle(c, (c.balances[0] + moved, c.balances[1] - moved), c.sequence)
        return True

    def deposit_credit(self, by: int, amount: int) -> bool:
        self.moved[by, "ETH"] -= amount
        self.credit[by, "ETH"] += amount
        return True

    def withdraw_credit(self, by: int, asset: str) -> bool:
        if not self.credit[by, asset] or (by, asset) in self.refusing:
            return False
        self.moved[by, asset] += self.credit.pop((by, asset))
        return True

    def _begin(self, c: Channel, phase: ChannelPhase, balances: tuple[int, int], *, actor: int) -> None:
        c.phase, c.epoch, c.sequence, c.balances, c.actor = phase, c.epoch + 1, 0, balances, actor

    def _fits(self, c: Channel, s: State) -> bool:
        return s.epoch == c.epoch and sum(s.balances) == sum(c.balances)

    def _settle(self, c: Channel, paid: tuple[int, int], sequence: int) -> None:
        c.phase, c.sequence, c.deadline, c.balances = ChannelPhase.CLOSED, sequence, 0, (0, 0)
        for party, amount in enumerate(paid):
            purse = self.credit if (party, c.asset) in self.refusing else self.moved
            purse[party, c.asset] += amount
