"""What a tower does about one channel: one pure function from what it holds and what the chain says to an answer, or to nothing.

The first answer to an old state goes out at once, and again whenever the chain has lost it. An answer that only improves on one of ours
waits until the period is nearly over, and there are few of them: two parties who go on signing while they dispute could otherwise spend
the tower's coin with their pens. Paper step 11.
"""

import dataclasses
import enum

from veilpod.core.channel import dispute
from veilpod.core.entities import ChainChannel, ChannelPhase
from veilpod.core.guard import Guarded

MAX_ANSWERS = 3  # versions answered with in one session of a channel; a session has one dispute
REMEMBERED = 16  # of them; more only when reorganisations keep losing them


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """A channel that is guarded: its newest state, until when (unix seconds), and the versions that were answered with in its session."""

    held: Guarded
    until: int
    answers: tuple[int, ...] = ()


class Verdict(enum.Enum):
    """What to do now."""

    NOTHING = "nothing"  # nothing is owed: no dispute, too late, or the chain knows as much as we do
    ANSWER = "answer"  # respond with the state that is held
    WAIT = "wait"  # an improvement is owed, and there is time until `decide` says otherwise
    SPENT = "spent"  # an improvement is owed, and this session has had its answers
    OVER = "over"  # the session is closed on chain: there is nothing left to guard


def decide(guard: Guard, chain: ChainChannel, *, now: int) -> Verdict:
    """Decide for one channel. `now` is the chain's time in unix seconds."""
    held = guard.held
    if chain.epoch > held.state.epoch or (chain.phase is ChannelPhase.CLOSED and chain.epoch == held.state.epoch):
        return Verdict.OVER
    if dispute.answer(chain, held.signed(), now=now) is None:
        return Verdict.NOTHING

    # What stands on chain is older than what we have sent: it is our first look, or our answer was lost.
    if chain.version < max(guard.answers, default=chain.version + 1):
        return Verdict.ANSWER

    if len(guard.answers) >= MAX_ANSWERS:
        return Verdict.SPENT
    # The next one is worth its gas when little can be signed after it: a quarter of the period, then a sixteenth.
    margin = held.place.terms.challenge_period // 4 ** len(guard.answers)
    return Verdict.ANSWER if now >= chain.deadline - margin else Verdict.WAIT


def answered(guard: Guard) -> Guard:
    """The guard after answering with what it holds. Sending one version again, after a reorganisation, is still one answer."""
    version = guard.held.state.version
    return guard if version in guard.answers else dataclasses.replace(guard, answers=(*guard.answers, version)[-REMEMBERED:])


def renewed(guard: Guard | None, held: Guarded, *, until: int) -> Guard:
    """The guard with a newer state, or for longer. Another session starts without answers."""
    same_session = guard is not None and guard.held.state.epoch == held.state.epoch
    until = max(until, guard.until) if guard is not None and same_session else until
    return Guard(held=held, until=until, answers=guard.answers if guard is not None and same_session else ())
