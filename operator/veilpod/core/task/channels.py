"""What a party does next for one channel. A channel outlives its assignment's object: its own finalizer holds it until the money is home.

Answering an old state comes first and waits for nothing. Everything else that ends a channel waits for two facts: no sandbox of the
assignment exists (on record), and the task is over on chain (its key is void). Then it closes with the final state, or, when the peer
never signed one, alone with the newest co-signed state and a challenge period. Paper steps 3 and 11.
"""

from veilpod.core.entities import ChainChannel, ChannelPhase, TaskPhase, channel_version
from veilpod.core.task import plan as do
from veilpod.core.task.conditions import Type, no, unknown, yes
from veilpod.core.task.plan import Draft, Plan
from veilpod.core.task.snapshot import ChannelSnapshot, Unknown

PEER_COURTESY = 60  # seconds in which party b leaves a close or a challenge to party a
CHALLENGE_PATIENCE = 120  # seconds in which a peer that has the final state is hoped to close with it


def decide_channel(s: ChannelSnapshot, now: float) -> Plan:
    """Decide what one party of a channel does. `now` is not used: patience and deadlines are in the chain's time.

    The patience is for a peer's transaction: while the chain stands still, the peer cannot send one either.
    """
    del now
    draft = Draft()
    if not s.finalizer and not s.deleting:
        return draft.do(do.AddFinalizer()).plan()
    if isinstance(s.chain, Unknown):
        draft.claim(Type.SETTLED, unknown(s.chain.why))
        draft.look_again(5)
        return draft.plan()
    draft.claim(Type.SETTLED, no("InUse"))
    match s.chain.phase:
        case ChannelPhase.NONE:
            _none(draft, s)
        case ChannelPhase.OPENING:
            _opening(draft, s, s.chain)
        case ChannelPhase.OPEN:
            _open(draft, s)
        case ChannelPhase.DISPUTED:
            _disputed(draft, s, s.chain)
        case ChannelPhase.CLOSED:
            _gone(draft, s, "Closed")
    return draft.plan()


def may_settle(s: ChannelSnapshot) -> bool:
    """No sandbox exists any more, and the chain no longer accepts its key."""
    return s.destroyed and not isinstance(s.task, Unknown) and s.task.phase in (TaskPhase.COMPLETED, TaskPhase.CLOSED)


def _none(draft: Draft, s: ChannelSnapshot) -> None:
    if may_settle(s) or (s.deleting and s.destroyed):
        _gone(draft, s, "NeverOpened")
    elif s.wanted and not s.deleting and not isinstance(s.task, Unknown) and s.task.phase is TaskPhase.ASSIGNED:
        draft.claim(Type.CHANNELS_OPEN, no("WaitingForDeposits"))
        if s.is_a:
            draft.do(do.OpenChannel())
        else:
            draft.look_again(5)
    else:
        draft.look_again(10)


def _opening(draft: Draft, s: ChannelSnapshot, chain: ChainChannel) -> None:
    if s.is_a:
        if may_settle(s):
            draft.do(do.CancelChannel())
        else:
            draft.look_again(5)
        return
    if may_settle(s):
        # Nothing of ours is in it, and taking it back is the opener's business.
        _gone(draft, s, "NeverJoined")
    elif s.wanted and not s.deleting and not isinstance(s.task, Unknown) and s.task.phase is TaskPhase.ASSIGNED:
        if (chain.balance_a, chain.balance_b) == (s.peer_deposit, s.deposit):
            draft.do(do.JoinChannel(epoch=chain.epoch))
        else:
            draft.claim(Type.CHANNELS_OPEN, no("DepositsDiffer", "the peer opened the channel with other deposits than the task says"))
            draft.look_again(30)
    else:
        draft.look_again(10)


def _open(draft: Draft, s: ChannelSnapshot) -> None:
    draft.claim(Type.CHANNELS_OPEN, yes("Open"))
    courtesy = 0 if s.is_a else PEER_COURTESY  # of two that could send the same transaction, one sends it
    if not may_settle(s):
        draft.look_again(30)
    elif s.final and s.settling_for >= courtesy:
        draft.do(do.CloseChannel())
    elif not s.final and s.settling_for >= CHALLENGE_PATIENCE + courtesy:
        draft.do(do.Challenge())
    else:
        draft.claim(Type.SETTLED, no("Closing"))
        draft.look_again(5)


def _disputed(draft: Draft, s: ChannelSnapshot, chain: ChainChannel) -> None:
    draft.claim(Type.SETTLED, no("Disputed"))
    if isinstance(s.chain_now, Unknown):
        draft.look_again(3)
        return
    in_time = s.chain_now <= chain.deadline
    if in_time and chain.version < s.newest < channel_version(chain.epoch + 1, 0):
        draft.do(do.Respond())
    elif may_settle(s) and s.final:
        draft.do(do.CloseChannel())
    elif may_settle(s) and not in_time:
        draft.do(do.Finalize())
    else:
        draft.look_again(max(min(chain.deadline + 1 - s.chain_now, 60), 1))


def _gone(draft: Draft, s: ChannelSnapshot, reason: str) -> None:
    if may_settle(s) or s.destroyed:
        draft.claim(Type.SETTLED, yes(reason))
    if s.deleting:
        draft.do(do.RemoveFinalizer())
