"""The end of a sandbox, in the order that may never break. Success and failure end in the same order.

    final (or newest) channel states and the signed result on disk
      -> keys wiped by the agent, its signed answer kept
      -> pod deleted, by UID, never forced
      -> kubelet: every container dead, its own final delete seen; on record before our finalizer is released; then gone
      -> the chain is told: report, or complete with the result (the sandbox key is void in the same transaction)
      -> channels closed (`channels` looks for `destroyed` on record and for the task's end on chain)

Afterwards a sandbox cannot sign in a dispute, so the first arrow is the one that money hangs on; the second last is the one that
payment hangs on.
"""

from collections.abc import Iterable

from veilpod.core.entities import ChainTask, ChannelPhase, TaskPhase
from veilpod.core.task import plan as do
from veilpod.core.task.conditions import Type, no, unknown, yes
from veilpod.core.task.plan import Draft
from veilpod.core.task.snapshot import ChannelSeen, PodSeen, Refusal, ServerSnapshot, Unknown

FINALS_PATIENCE = 30  # seconds for peers to sign the final state; without it the newest co-signed state serves in a challenge
EXPOSED_PATIENCE = 5  # the same for a sandbox whose fence fell: a dispute costs an hour, an open door everything
ZEROISE_PATIENCE = 45  # more seconds for the agent's answer
CREATE_PATIENCE = 75  # seconds in which a POST whose answer was lost may still make a pod
REFUND_COURTESY = 60  # seconds in which the refund is left to the requester
_OVER = (TaskPhase.COMPLETED, TaskPhase.CLOSED)


def go_on(draft: Draft, s: ServerSnapshot, now: float) -> None:
    """Take the next steps of the end."""
    if any(_forgotten(channel) for channel in s.channels):
        draft.do(do.CreateChannels())  # an object that somebody removed by force: money is never without one
    if not s.facts.destroyed:
        _destroy(draft, s, now)
        return
    _claim_finals(draft, s)
    draft.claim(Type.SANDBOX_DESTROYED, yes(s.facts.destroyed))
    if isinstance(s.task, Unknown) or isinstance(s.chain_now, Unknown):
        draft.look_again(5)
        return
    if s.task.phase in _OVER:
        _settle(draft, s)
    else:
        _report(draft, s, s.task, s.chain_now)


# -- from the final states to the pod's end


def _destroy(draft: Draft, s: ServerSnapshot, now: float) -> None:
    facts = s.facts
    patience = facts.ending_since + (EXPOSED_PATIENCE if facts.exposed else FINALS_PATIENCE) - now
    draft.claim(Type.SANDBOX_DESTROYED, no("Ending"))
    if not facts.finals:
        # 1. What must outlive the sandbox, first.
        if not _finals_there(s) and patience > 0 and _worth_waiting(s):
            if s.connected:
                draft.do(do.RequestFinals())
            draft.look_again(min(patience + 0.1, 5))
        else:
            draft.do(do.PersistFinalStates())
        return
    _claim_finals(draft, s)
    if not facts.zeroised:
        # 2. A finished sandbox may end by itself once nothing of it is needed; then every key in it dies.
        if patience + ZEROISE_PATIENCE > 0 and _worth_waiting(s):
            if s.connected and not facts.released and not facts.exposed:  # no goodbyes through an open door
                draft.do(do.Release())
            if s.connected:
                draft.do(do.Zeroise())
            draft.look_again(2)
            return
        draft.do(do.RecordUnreachable())
    # 3. and 4. Delete, and watch it die.
    if pods_gone(draft, s, now):
        draft.do(do.RecordDestroyed(reason=_how(s)))


def _forgotten(channel: ChannelSeen) -> bool:
    if channel.exists or isinstance(channel.chain, Unknown):
        return False
    return channel.chain.phase not in (ChannelPhase.NONE, ChannelPhase.CLOSED)


def pods_gone(draft: Draft, s: ServerSnapshot, now: float) -> bool:
    """Drive every pod of this assignment to its observed end. True: there is none, and that is known."""
    if isinstance(s.pods, Unknown):
        draft.claim(Type.SANDBOX_DESTROYED, unknown(s.pods.why))
        draft.look_again(3)
        return False
    end_pods(draft, s, s.pods)
    if s.pods:
        return False
    if s.facts.intended_at and now < s.facts.intended_at + CREATE_PATIENCE:
        # The answer to a POST was lost: the pod may still appear. Nothing is gone that may yet come. (One that came and vanished before
        # its UID was learnt looks the same as one never made: that our finalizer holds it is guarded by an admission policy.)
        draft.claim(Type.SANDBOX_DESTROYED, unknown("CreationUnanswered"))
        draft.look_again(5)
        return False
    unproved = [record for record in s.facts.pods if not record.evidence and now <= record.ends]
    if unproved:
        # It vanished without the kubelet's word. Only its own deadline, enforced by the kubelet, can still vouch for its end.
        draft.claim(Type.SANDBOX_DESTROYED, unknown("EvidenceMissing", "the pod vanished before the node reported its containers dead"))
        draft.look_again(min(max(record.ends for record in unproved) + 1 - now, 60))
        return False
    return True


def end_pods(draft: Draft, s: ServerSnapshot, pods: Iterable[PodSeen]) -> None:
    """Take each pod one step further towards its observed end."""
    for pod in pods:
        _end_pod(draft, s, pod)


def _end_pod(draft: Draft, s: ServerSnapshot, pod: PodSeen) -> None:
    if not pod.deleting:
        draft.do(do.DeletePod(name=pod.name, uid=pod.uid))
        draft.look_again(10)
    elif pod.terminated and pod.kubelet_done:
        record = s.facts.record(pod.uid)
        if record is None or not record.evidence:
            draft.do(do.RecordEvidence(uid=pod.uid, unproved=pod.unproved))
        if pod.finalizer:
            draft.do(do.ReleasePodFinalizer(name=pod.name, uid=pod.uid))
        draft.look_again(2)
    elif pod.node_lost:
        draft.claim(Type.SANDBOX_DESTROYED, unknown("NodeUnreachable", "held until the node answers or the pod's deadline has passed"))
        draft.look_again(30)
    else:
        draft.claim(Type.SANDBOX_DESTROYED, no("Terminating"))
        draft.look_again(10)


def _how(s: ServerSnapshot) -> str:
    if not s.facts.pods:
        return "NeverCreated"
    return "Observed" if all(record.evidence for record in s.facts.pods) else "DeadlinePassed"


def _finals_there(s: ServerSnapshot) -> bool:
    return all(c.final or (not isinstance(c.chain, Unknown) and c.chain.phase is not ChannelPhase.OPEN) for c in s.channels)


def _claim_finals(draft: Draft, s: ServerSnapshot) -> None:
    never_open = (ChannelPhase.NONE, ChannelPhase.OPENING)
    if all(c.final or (not isinstance(c.chain, Unknown) and c.chain.phase in never_open) for c in s.channels):
        draft.claim(Type.FINAL_STATE_SIGNED, yes("CoSigned" if s.channels else "NoneNeeded"))
    else:
        draft.claim(
            Type.FINAL_STATE_SIGNED, no("PeerSilent", "the newest co-signed states are kept and will close the channels in a dispute")
        )


def _worth_waiting(s: ServerSnapshot) -> bool:
    """Whether an agent that does not answer now may still do so, and has something to say: keys that somebody relied on."""
    return _alive(s) and (s.connected or bool(s.facts.statement))


def _alive(s: ServerSnapshot) -> bool:
    """Whether an agent can still answer. Unknown pods: try, patience is bounded."""
    if isinstance(s.pods, Unknown):
        return True
    return any(pod.incarnation == s.facts.incarnation and not (pod.terminated or pod.ended or pod.restarted) for pod in s.pods)


# -- what the chain is told


def _report(draft: Draft, s: ServerSnapshot, task: ChainTask, clock: int) -> None:
    if task.phase not in (TaskPhase.ASSIGNED, TaskPhase.RUNNING):
        # Not believed yet, or reorganised away: without an assignment on chain nobody is owed a report.
        if s.deleting:
            draft.do(do.RemoveFinalizer())
        draft.look_again(5)
        return
    result = s.facts.acknowledged_result
    ours = not isinstance(s.spec, Refusal) and s.spec.result.sender == s.index
    reported = bool(task.reported & (1 << s.index))
    everybody = (1 << task.terms.servers) - 1
    if task.phase is TaskPhase.RUNNING and ours and result and not reported and not task.stopping and clock <= task.terms.report_by:
        others = everybody & ~(1 << s.index)
        if task.reported & others == others or clock > task.terms.complete_by:
            draft.do(do.CompleteTask(result=result))
        else:
            draft.claim(Type.KEY_REVOKED, no("WaitingForReports"))
            draft.look_again(min(max(task.terms.complete_by + 1 - clock, 1), 30))
        return
    if not reported:
        draft.do(do.ReportDestroyed())
        return
    draft.claim(Type.KEY_REVOKED, no("WaitingForOthers"))
    # Nobody's money waits for a requester that went away: after its turn anyone may close the task.
    last = task.terms.complete_by if task.reported == everybody else task.terms.report_by
    moment = (task.terms.key_by if task.phase is TaskPhase.ASSIGNED else last) + REFUND_COURTESY
    if clock > moment:
        draft.do(do.Refund())
    draft.look_again(min(max(moment + 1 - clock, 1), 60))


def _settle(draft: Draft, s: ServerSnapshot) -> None:
    assert not isinstance(s.task, Unknown)
    draft.claim(Type.KEY_REVOKED, yes("Completed" if s.task.phase is TaskPhase.COMPLETED else "Closed"))
    if any(isinstance(channel.chain, Unknown) for channel in s.channels):
        draft.claim(Type.SETTLED, unknown("ChainUnavailable"))
        draft.look_again(5)
    elif all(
        channel.chain.phase in (ChannelPhase.NONE, ChannelPhase.CLOSED) for channel in s.channels if not isinstance(channel.chain, Unknown)
    ):
        draft.claim(Type.SETTLED, yes("Settled"))
    else:
        draft.claim(Type.SETTLED, no("ChannelsOpen"))
        draft.look_again(10)
    if s.deleting:
        # Channels have objects and finalizers of their own: they outlive this one until the money is home.
        draft.do(do.RemoveFinalizer())
