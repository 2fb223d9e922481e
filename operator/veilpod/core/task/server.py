"""What a computing server does next for one assignment: read `decide_assignment` top to bottom.

Either the assignment goes forward (channels and sandbox side by side, statement, acceptance, key, data, program) or it has begun to
end; then `teardown` alone decides, and nothing leads back. Observations that failed stop what relies on them and nothing else: a
dead chain does not keep a sandbox alive, a dead cluster does not keep a channel from being answered (`channels`).
"""

from veilpod.core.entities import ChainTask, ChannelPhase, TaskPhase
from veilpod.core.task import plan as do
from veilpod.core.task import teardown
from veilpod.core.task.conditions import NOT_PROMISED, Status, Type, no, unknown, yes
from veilpod.core.task.facts import Failure
from veilpod.core.task.plan import Draft, Plan
from veilpod.core.task.remedies import failed_message, remedy
from veilpod.core.task.snapshot import PodSeen, Refusal, ServerSnapshot, Unknown

MAX_INCARNATIONS = 3
FENCE_SECONDS = 30  # how often an assignment is looked at whatever happens; that a fence fell is told within seconds (`control.fences`)


def decide_assignment(s: ServerSnapshot, now: float) -> Plan:
    """Decide what a computing server's operator does. `now`: unix seconds, for patience only; deadlines are in the chain's time."""
    draft = Draft(failure=s.facts.failure)
    verdict = s.facts.verdict
    draft.claim(Type.ATTESTED, (yes if verdict.attested else no)(verdict.reason, verdict.message))
    if not s.finalizer and not s.deleting:
        return draft.do(do.AddFinalizer()).plan()

    _progress(draft, s)
    if s.facts.ending_since or s.facts.destroyed:
        teardown.go_on(draft, s, now)
    elif (ending := _ending(s)) is not None:
        if isinstance(ending, Failure):
            draft.do(do.RecordFailure(failure=ending))
        draft.do(do.RecordEnding())
    else:
        _forward(draft, s, now)
    return draft.plan()


# -- does it end?


def _fence_down(s: ServerSnapshot) -> Failure | None:
    """A control that cannot be honoured refuses the sandbox; one that changes under it ends it."""
    if not isinstance(s.pods, Unknown) and (pod := _current(s, s.pods)) is not None and pod.refused:
        return Failure(stage="NetworkIsolated", code="NetguardRefused")
    if isinstance(s.policies, Unknown):
        return None
    if s.policies.missing:
        return Failure(stage="HostAccessDenied", code="PolicyMissing")
    if s.facts.policies and s.facts.policies != s.policies.digest:
        return Failure(stage="HostAccessDenied", code="PolicyChanged")
    return None


class _Done:
    """The part is played to its end."""


def _ending(s: ServerSnapshot) -> Failure | _Done | None:
    """Why this assignment has to end, or None."""
    facts, task = s.facts, s.task
    if facts.failure:
        return facts.failure
    if isinstance(s.spec, Refusal):
        return Failure(stage="SandboxReady", code=s.spec.reason)
    if _finished(s):
        return _Done()
    if s.deleting:
        return Failure(stage=_stage(s), code="Cancelled")
    if not isinstance(task, Unknown) and (why := _chain_ends_it(s, task)) is not None:
        return why
    if (fence := _fence_down(s)) is not None:
        return fence
    if facts.agent.failed:
        unstarted = facts.agent.failed == "ProgramNotStarted"  # the agent cannot see why; the kubelet told us
        return Failure(stage=_stage(s), code=(unstarted and _stuck(s)) or facts.agent.failed)
    if facts.agent.exited not in (None, 0):
        return Failure(stage="Computed", code="ProgramFailed")
    return _sandbox_lost(s)


def _chain_ends_it(s: ServerSnapshot, task: ChainTask) -> Failure | _Done | None:
    if task.phase in (TaskPhase.COMPLETED, TaskPhase.CLOSED):
        return _Done() if task.phase is TaskPhase.COMPLETED else Failure(stage=_stage(s), code="Cancelled")
    if task.phase not in (TaskPhase.ASSIGNED, TaskPhase.RUNNING):
        return None  # the assignment was reorganised away or not yet believed: wait
    if not isinstance(s.spec, Refusal) and task.asset != s.spec.payment.asset:
        return Failure(stage="SandboxReady", code="AssetMismatch")  # the escrow is not in what the specification promises
    if task.stopping or task.reported & (1 << s.index):
        return Failure(stage=_stage(s), code="Cancelled")
    if task.phase is TaskPhase.ASSIGNED and task.reported:
        return Failure(stage="KeyPublished", code="PeerLost")
    if task.phase is TaskPhase.RUNNING:
        assert not isinstance(s.spec, Refusal)
        if s.facts.statement not in task.statements[s.index : s.index + 1]:
            return Failure(stage="KeyPublished", code="StatementRefused")
        if s.index != s.spec.result.sender and task.reported & (1 << s.spec.result.sender):
            return Failure(stage=_stage(s), code="PeerLost")
    if not isinstance(s.chain_now, Unknown) and s.chain_now > _give_up_at(task):
        return Failure(stage=_stage(s), code=_late(s))
    return None


def _late(s: ServerSnapshot) -> str:
    """Why time is over. The chain's patience ends before an agent's: what the agent waits for is the reason, unless the program ran."""
    agent = s.facts.agent
    if (stuck := _stuck(s)) and not agent.started:
        return stuck
    if agent.trouble and not (agent.started and agent.exited is None):
        return agent.trouble
    return s.relays.reason if s.relays else _unproved(s) or "DeadlineExceeded"


def _give_up_at(task: ChainTask) -> int:
    """When to stop, early enough to report before absence costs the stake."""
    if task.phase is TaskPhase.ASSIGNED:
        return task.terms.key_by - min(60, max((task.terms.key_by - task.terms.schedule_by) // 4, 15))
    return task.terms.complete_by


def _finished(s: ServerSnapshot) -> bool:
    """The program ended well, traffic is accounted for, and the result (if it is ours to give) is delivered."""
    agent = s.facts.agent
    if agent.exited != 0 or isinstance(s.spec, Refusal):
        return False
    if s.spec.result.sender == s.index and not (agent.result and agent.delivered):
        return False
    return agent.flushed or not s.channels


def _sandbox_lost(s: ServerSnapshot) -> Failure | None:
    """A sandbox that is gone or reborn has lost its keys. After its statement was countersigned nothing can replace it."""
    if isinstance(s.pods, Unknown) or not s.facts.statement:
        return None
    pod = _current(s, s.pods)
    if pod is None and _made(s):
        return Failure(stage=_stage(s), code="SandboxLost")
    if pod is not None and (pod.restarted or pod.ended or pod.deleting):
        return Failure(stage=_stage(s), code="AgentRestarted" if pod.restarted else "SandboxLost")
    return None


# -- forward


def _forward(draft: Draft, s: ServerSnapshot, now: float) -> None:
    if isinstance(s.task, Unknown) or isinstance(s.chain_now, Unknown):
        draft.claim(Type.SCHEDULED, unknown("ChainUnavailable"))
        draft.look_again(5)
        return
    if s.task.phase not in (TaskPhase.ASSIGNED, TaskPhase.RUNNING):
        draft.look_again(5)
        return
    draft.claim(Type.SCHEDULED, yes("Assigned"))
    if s.facts.agent.trouble and s.connected:
        draft.do(do.ConfigureAgent())  # with the directory of now
    draft.look_again(min(max(_give_up_at(s.task) + 1 - s.chain_now, 1), FENCE_SECONDS))
    if s.task.phase is TaskPhase.ASSIGNED:
        # 3. The channels open by themselves while the sandbox starts; the acceptance waits for both.
        if any(not channel.exists for channel in s.channels):
            draft.do(do.CreateChannels())
        pod = _sandbox(draft, s, now)
        if pod is not None:
            _meet(draft, s, pod)
    elif not s.facts.handed:
        # 4. The key is on chain with our statement: the agent may be told where its peers and stores will meet it.
        _hand(draft, s)


def _sandbox(draft: Draft, s: ServerSnapshot, now: float) -> PodSeen | None:
    """One living pod of the current incarnation, or the steps towards it. Never two."""
    facts = s.facts
    if isinstance(s.policies, Unknown):
        draft.claim(Type.SANDBOX_READY, unknown(s.policies.why, remedy(s.policies.why)))
        draft.look_again(5)
        return None  # fences first: nothing is made while nobody can say whether they stand
    if isinstance(s.pods, Unknown):
        draft.claim(Type.SANDBOX_READY, unknown(s.pods.why))
        draft.look_again(3)
        return None
    pod = _current(s, s.pods)
    if pod is not None and not (pod.restarted or pod.ended or pod.deleting):
        teardown.end_pods(draft, s, [other for other in s.pods if other is not pod])
        if facts.record(pod.uid) is None:
            # Ours by its nonce, made just before a crash: POST again, which finds it and records its UID.
            draft.do(do.CreatePod())
        return pod
    if pod is None and facts.incarnation and not _made(s) and not s.pods:
        # The intent is on record, its outcome is not: the name makes the repeated POST harmless.
        draft.do(do.CreatePod())
    elif not teardown.pods_gone(draft, s, now):
        pass
    elif s.relays is not None:
        draft.claim(Type.SANDBOX_READY, no(s.relays.reason, s.relays.message))
        draft.look_again(5)  # a sandbox that nobody could reach is not made
    elif facts.incarnation >= MAX_INCARNATIONS:
        draft.do(do.RecordFailure(failure=Failure(stage="SandboxReady", code=_unproved(s) or "SandboxLost")))
    else:
        # Keys died with their sandbox and nobody has relied on them yet: another sandbox, another incarnation.
        draft.do(do.BeginIncarnation(incarnation=facts.incarnation + 1), do.CreatePod())
    return None


def _meet(draft: Draft, s: ServerSnapshot, pod: PodSeen) -> None:
    """From a running agent to our signature under the sandbox key."""
    facts, agent = s.facts, s.facts.agent
    if facts.record(pod.uid) is None or not s.connected:
        return  # an event of the pod or of the link wakes us
    if not agent.ready:
        if not agent.trouble:
            draft.do(do.ConfigureAgent())
    elif not (facts.statement and facts.offered):
        if pod.images_match is None:
            draft.look_again(1)  # the kubelet has not told what it runs
        elif not pod.images_match:
            draft.do(do.RecordFailure(failure=Failure(stage="SandboxReady", code="ImageMismatch")))
        else:
            draft.do(do.CountersignStatement())
    elif agent.meeting and not facts.accepted_key:
        if _channels_open(draft, s):
            draft.do(do.SignSandboxKey())
    elif agent.meeting and not agent.accepted:
        draft.do(do.SignSandboxKey())  # signed before a crash; the very same signature again


def _hand(draft: Draft, s: ServerSnapshot) -> None:
    assert not isinstance(s.task, Unknown)
    accepted = s.facts.agent.meeting
    if accepted is None or accepted.key != s.task.published_key or accepted.statements != s.task.statements:
        # The contract demands our signature, so this cannot be; if it is, nothing of ours takes part.
        draft.do(do.RecordFailure(failure=Failure(stage="KeyPublished", code="StatementRefused")))
    elif s.connected:
        draft.do(do.HandDescriptors())


def _channels_open(draft: Draft, s: ServerSnapshot) -> bool:
    return all(not isinstance(c.chain, Unknown) and c.chain.phase is ChannelPhase.OPEN for c in s.channels)


# -- what the conditions say


def _progress(draft: Draft, s: ServerSnapshot) -> None:
    facts, agent = s.facts, s.facts.agent
    _claim_channels(draft, s)
    if isinstance(s.policies, Unknown):
        draft.claim(Type.HOST_ACCESS_DENIED, unknown(s.policies.why, remedy(s.policies.why)))
    elif s.policies.missing:
        why = f"not in force: {', '.join(s.policies.missing)}; what to do: {remedy('PolicyMissing')}"
        draft.claim(Type.HOST_ACCESS_DENIED, no("PolicyMissing", why))
    elif not s.policies.host_access_denied:
        draft.claim(Type.HOST_ACCESS_DENIED, no(NOT_PROMISED, "this SandboxClass lets the cluster's people into its sandboxes"))
    else:
        draft.claim(Type.HOST_ACCESS_DENIED, yes("PoliciesInForce"))
    steps: tuple[tuple[Type, bool, str, str], ...] = (
        (Type.NETWORK_ISOLATED, agent.isolated or agent.ready, "NetguardPassed", "WaitingForNetguard"),
        (Type.SANDBOX_READY, bool(facts.statement), "Countersigned", "WaitingForStatement"),
        (Type.KEY_PUBLISHED, _published(s), "Published", "WaitingForKey"),
        (Type.DATA_DELIVERED, agent.received, "Received", "WaitingForInputs"),
        (Type.INPUTS_VERIFIED, agent.verified, "Verified", "WaitingForInputs"),
        (Type.COMPUTED, agent.exited == 0, "ExitedWithSuccess", "NotComputed"),
    )
    if not isinstance(s.spec, Refusal) and s.spec.result.sender == s.index:
        steps += ((Type.RESULT_DELIVERED, agent.delivered, "Delivered", "NotDelivered"),)
    in_the_way = agent.trouble or _stuck(s)  # said where it hurts: at the first step that is not reached
    for kind, reached, reason, waiting in steps:
        draft.claim(kind, yes(reason) if reached else no(in_the_way, remedy(in_the_way)) if in_the_way else no(waiting))
        in_the_way = in_the_way if reached else ""
    if draft.claims[Type.KEY_PUBLISHED].status is Status.TRUE:
        draft.claim(Type.NETWORK_ISOLATED, yes("NetguardPassed"))
    if facts.failure:
        blamed = "" if agent.blamed is None or agent.failed != facts.failure.code else f"by server {agent.blamed}, "
        draft.claim(Type.FAILED, yes(facts.failure.code, blamed + failed_message(facts.failure)))


def _claim_channels(draft: Draft, s: ServerSnapshot) -> None:
    if s.facts.accepted_key:
        draft.claim(Type.CHANNELS_OPEN, yes("AllOpen"))
    elif any(isinstance(c.chain, Unknown) for c in s.channels):
        draft.claim(Type.CHANNELS_OPEN, unknown("ChainUnavailable"))
    elif _channels_open(draft, s):
        draft.claim(Type.CHANNELS_OPEN, yes("AllOpen" if s.channels else "NoneNeeded"))
    else:
        draft.claim(Type.CHANNELS_OPEN, no("WaitingForDeposits"))


def _published(s: ServerSnapshot) -> bool:
    return s.facts.handed or (not isinstance(s.task, Unknown) and s.task.published_key is not None)


def _stage(s: ServerSnapshot) -> str:
    """The condition that could not be reached."""
    agent = s.facts.agent
    if agent.exited == 0:
        return "ResultDelivered"
    if agent.verified:
        return "Computed"
    if agent.received:
        return "InputsVerified"
    if _published(s):
        return "DataDelivered"
    return "KeyPublished" if s.facts.statement else "SandboxReady"


def _stuck(s: ServerSnapshot) -> str:
    """Why a container of the sandbox cannot begin, "" when nothing is in its way or nobody can say."""
    pod = None if isinstance(s.pods, Unknown) else _current(s, s.pods)
    return pod.stuck if pod is not None and not pod.deleting else ""


def _unproved(s: ServerSnapshot) -> str:
    """Why no sandbox came to a statement, if it was because the last one's netguard gave up."""
    return "NetguardRefused" if not s.facts.statement and s.facts.pods and s.facts.pods[-1].unproved else ""


def _current(s: ServerSnapshot, pods: tuple[PodSeen, ...]) -> PodSeen | None:
    return next((pod for pod in pods if pod.intended and pod.incarnation == s.facts.incarnation), None)


def _made(s: ServerSnapshot) -> bool:
    """Whether the current incarnation's pod was ever acknowledged by the API server."""
    return any(record.incarnation == s.facts.incarnation for record in s.facts.pods)
