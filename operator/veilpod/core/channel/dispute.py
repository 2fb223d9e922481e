"""What the newest co-signed state is good for on chain: answering an old one, closing at once, or ending alone.

Pure rules over the chain's view of a channel and the journal's newest state; whether it is time to end a channel is not decided here.
Paper step 11.
"""

from veilpod.core.channel.records import Signed
from veilpod.core.channel.state import ChannelState, opening_state
from veilpod.core.entities import ChainChannel, ChannelPhase


def answer(chain: ChainChannel, newest: Signed | None, *, now: int) -> Signed | None:
    """The state to respond with: the channel is disputed with an older one and the period runs. `now` is the chain's time."""
    if chain.phase is not ChannelPhase.DISPUTED or now > chain.deadline or newest is None or not newest.complete:
        return None
    if newest.state.epoch != chain.epoch or newest.state.sequence <= chain.sequence:
        return None
    return newest


def closing(chain: ChainChannel, newest: Signed | None) -> Signed | None:
    """The state to close with at once, dispute or not: final, of this session, and not older than what the chain knows."""
    if chain.phase not in (ChannelPhase.OPEN, ChannelPhase.DISPUTED) or newest is None or not newest.final or not newest.complete:
        return None
    if newest.state.epoch != chain.epoch or newest.state.sequence < chain.sequence:
        return None
    return newest


def challenging(chain: ChainChannel, newest: Signed | None) -> tuple[ChannelState, Signed | None] | None:
    """The state to end an open channel with alone: the newest co-signed one, or the deposits, which need no signature."""
    if chain.phase is not ChannelPhase.OPEN:
        return None
    if newest is not None and newest.complete and newest.state.epoch == chain.epoch:
        return newest.state, newest
    return opening_state(epoch=chain.epoch, deposit_a=chain.balance_a, deposit_b=chain.balance_b), None
