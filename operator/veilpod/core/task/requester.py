"""What the requester does next (architecture, section 2): read `decide_task` top to bottom as the life of a task.

Nothing is created or locked before the specification is complete; nothing is published before every channel is open and every server
has signed; the end is cancel -> servers report their sandboxes gone -> complete or refund -> channels closed. The requester holds no
sandbox and no channel: it sees the servers' work on chain and in its own mailbox.
"""

from veilpod.core.entities import ChainTask, ChannelPhase, TaskPhase
from veilpod.core.ids import ServerIndex
from veilpod.core.task import plan as do
from veilpod.core.task.conditions import Claim, Status, Type, no, unknown, yes
from veilpod.core.task.facts import Failure
from veilpod.core.task.plan import Draft, Plan
from veilpod.core.task.remedies import failed_message
from veilpod.core.task.snapshot import CeremonySeen, Refusal, TaskSnapshot, Unknown
from veilpod.core.task.spec import TaskSpec, needed

REFUND_GRACE = 30  # seconds after a deadline in which a late report still spares its server's stake
POD_SLACK = 120  # seconds after reportBy by which the last kubelet has killed what its operator did not
_OVER = (TaskPhase.COMPLETED, TaskPhase.CLOSED)


def decide_task(s: TaskSnapshot, now: float) -> Plan:
    """Decide what the requester's operator does. `now`: unix seconds, for patience only; deadlines are in the chain's time."""
    draft = Draft(failure=s.failure)
    if not s.finalizer and not s.deleting:
        return draft.do(do.AddFinalizer()).plan()
    if isinstance(s.task, Unknown) or isinstance(s.chain_now, Unknown):
        draft.look_again(5)
        return draft.plan()
    task, clock = s.task, s.chain_now
    if task.phase is TaskPhase.NONE:
        _request(draft, s, clock)
        return draft.plan()

    draft.claim(Type.REQUESTED, yes("Requested"))
    draft.claim(Type.ATTESTED, no("NoTEE", "no hardware evidence: the servers' hosts are inside the trust base"))
    if task.phase is TaskPhase.REQUESTED:
        _schedule(draft, s, task, clock)
        return draft.plan()

    draft.claim(Type.SCHEDULED, yes("Assigned"))
    if not isinstance(s.mailbox, Unknown) and not s.mailbox.announced and task.phase is not TaskPhase.CLOSED and not s.deleting:
        draft.do(do.AnnounceTask())  # also to a mailbox that forgot: until it knows the task, nothing it lacks means anything
    _channels_open(draft, s, task)
    _follow_notes(draft, s, task)
    if task.phase is TaskPhase.ASSIGNED:
        _publish(draft, s, task, clock)
    elif task.phase is TaskPhase.RUNNING:
        _run(draft, s, task, clock)
    _destroyed(draft, task, clock)
    if task.phase in _OVER:
        _settle(draft, s, task)
    return draft.plan()


# -- 1. request


def _request(draft: Draft, s: TaskSnapshot, clock: int) -> None:
    if s.deleting:
        # A request that was sent may still land: until its own deadline makes it impossible we have to stay and cancel it.
        if s.attempted_until is not None and clock <= s.attempted_until:
            draft.look_again(5)
            return
        draft.do(do.RemoveFinalizer())
    elif isinstance(s.intent, Unknown):
        draft.claim(Type.REQUESTED, unknown(s.intent.why))
        draft.look_again(5)
    elif isinstance(s.intent, Refusal):
        draft.claim(Type.REQUESTED, no(s.intent.reason, s.intent.message))
        draft.look_again(60)
    elif s.relays is not None:
        # Nothing is locked for sandboxes that could not be reached.
        draft.claim(Type.REQUESTED, no(s.relays.reason, s.relays.message))
        draft.look_again(5)
    else:
        draft.claim(Type.REQUESTED, no("Requesting"))
        draft.do(do.RequestTask(intent=s.intent))


# -- 2. schedule


def _schedule(draft: Draft, s: TaskSnapshot, task: ChainTask, clock: int) -> None:
    if s.deleting:
        _fail(draft, s, "Scheduled", "Cancelled")
        draft.do(do.CancelTask())
    elif clock > task.terms.schedule_by:
        _fail(draft, s, "Scheduled", _late(s))
        draft.claim(Type.SCHEDULED, no("DeadlineExceeded", "not enough servers qualified in time; see `veilpod nodes`"))
        draft.do(do.Refund())
    elif s.relays is not None:
        draft.claim(Type.SCHEDULED, no(s.relays.reason, s.relays.message))
        draft.look_again(5)
    elif isinstance(s.candidates, Unknown):
        draft.claim(Type.SCHEDULED, unknown(s.candidates.why))
        draft.look_again(3)
    elif s.candidates is None:
        draft.claim(
            Type.SCHEDULED, no("NotEnoughServers", "too few Active servers of different owners with room, stake and a fresh heartbeat")
        )
        draft.look_again(5)
    else:
        draft.do(do.AssignServers(compute=s.candidates))


# -- 3. and 4. channels, sandboxes, key


def _channels_open(draft: Draft, s: TaskSnapshot, task: ChainTask) -> None:
    if task.phase is not TaskPhase.ASSIGNED:
        # What was needed for the key stays said; how channels end is Settled's business.
        if task.phase is TaskPhase.RUNNING:
            draft.claim(Type.CHANNELS_OPEN, yes("AllOpen"))
        return
    if isinstance(s.channels, Unknown):
        draft.claim(Type.CHANNELS_OPEN, unknown(s.channels.why))
    elif all(channel.phase is ChannelPhase.OPEN for channel in s.channels):
        draft.claim(Type.CHANNELS_OPEN, yes("AllOpen" if s.channels else "NoneNeeded"))
    else:
        draft.claim(Type.CHANNELS_OPEN, no("WaitingForDeposits"))


def _publish(draft: Draft, s: TaskSnapshot, task: ChainTask, clock: int) -> None:
    if _ends_assigned(draft, s, task, clock):
        return
    draft.look_again(max(task.terms.key_by + REFUND_GRACE - clock, 1))
    if isinstance(s.mailbox, Unknown):
        draft.claim(Type.SANDBOX_READY, unknown(s.mailbox.why))
        draft.look_again(3)
        return
    if not s.mailbox.announced:
        return
    _sandboxes(draft, s.mailbox.offers, task)
    publication = s.mailbox.publication
    if publication is None:
        draft.claim(Type.KEY_PUBLISHED, _no_key(s.mailbox.ceremony))
        draft.look_again(10)
    elif draft.claims[Type.CHANNELS_OPEN].status is not Status.TRUE:
        draft.claim(Type.KEY_PUBLISHED, no("WaitingForChannels"))
        draft.look_again(2)
    else:
        draft.do(do.PublishKey(publication=publication))


def _no_key(ceremony: CeremonySeen | None) -> Claim:
    """Why there is no key yet, as far as the mailbox shows it: silence is what it saw, evidence is what anybody can check."""
    if ceremony is None:
        return no("WaitingForServers")
    if ceremony.proved:
        said = ", ".join(f"server {index} ({kind})" for index, kind in ceremony.proved)
        return no("CeremonyFault", f"lied while the task key was made: {said}; the mailbox keeps the evidence until the task is deleted")
    return no("WaitingForServers", f"no {ceremony.stage} yet of server {', '.join(map(str, ceremony.missing))} in the key ceremony")


def _say_why_no_key(draft: Draft, s: TaskSnapshot) -> None:
    if (ceremony := _ceremony(s)) is not None:
        draft.claim(Type.KEY_PUBLISHED, _no_key(ceremony))


def _ceremony(s: TaskSnapshot) -> CeremonySeen | None:
    return None if isinstance(s.mailbox, Unknown) else s.mailbox.ceremony


def _ends_assigned(draft: Draft, s: TaskSnapshot, task: ChainTask, clock: int) -> bool:
    """Whether a task without a key is on its way out."""
    _say_why_no_key(draft, s)
    if _all_reported(task):
        _fail(draft, s, "KeyPublished", _code(s))
        draft.do(do.Refund())
        return True
    if clock > task.terms.key_by:
        _fail(draft, s, "KeyPublished", _late(s))
        _after(draft, clock, task.terms.key_by + REFUND_GRACE, do.Refund())
        return True
    if s.deleting or task.reported or task.stopping:
        _fail(draft, s, "KeyPublished", "Cancelled" if s.deleting else _code(s))
        if not task.stopping:
            draft.do(do.CancelTask())
        _after(draft, clock, task.terms.key_by + REFUND_GRACE)
        return True
    return False


def _sandboxes(draft: Draft, offers: frozenset[ServerIndex], task: ChainTask) -> None:
    # An offer is a statement that its server countersigned: netguard's observation is part of it.
    ready = len(offers) == task.terms.servers
    draft.claim(Type.NETWORK_ISOLATED, yes("Attested") if ready else no("WaitingForServers"))
    draft.claim(Type.SANDBOX_READY, yes("Countersigned") if ready else no("WaitingForServers"))


# -- 5. to 8. the task runs


def _run(draft: Draft, s: TaskSnapshot, task: ChainTask, clock: int) -> None:
    draft.claim(Type.NETWORK_ISOLATED, yes("Attested"))
    draft.claim(Type.SANDBOX_READY, yes("Countersigned"))
    draft.claim(Type.KEY_PUBLISHED, yes("Published"))
    sender = s.spec.result.sender if s.spec else ServerIndex(0)
    if _all_reported(task) or clock > task.terms.report_by + REFUND_GRACE:
        # The result's server reported without completing, or somebody never did: the stake pays.
        _fail(draft, s, "Computed", _code(s) if _all_reported(task) else "DeadlineExceeded")
        draft.do(do.Refund())
        return
    if s.deleting and not task.stopping:
        _fail(draft, s, "Computed", "Cancelled")
        draft.do(do.CancelTask())
    elif task.stopping or task.reported & (1 << sender):
        _fail(draft, s, "Computed", _code(s))
    elif s.spec and _quorum_lost(s, s.spec):
        _fail(draft, s, "Computed", _code(s))
        draft.do(do.CancelTask())
    draft.look_again(max(min(task.terms.report_by + REFUND_GRACE + 1 - clock, 30), 1))


def _quorum_lost(s: TaskSnapshot, spec: TaskSpec) -> bool:
    """Too many servers failed, and the result's server would go on in vain. Its own failure it reports itself."""
    if isinstance(s.mailbox, Unknown) or not s.mailbox.announced:
        return False
    failed = {index for index, _ in s.mailbox.failures}
    if not isinstance(s.task, Unknown):
        # A sandbox that is lost signs no note: its server reports it gone although it never said that it had computed.
        failed |= {v.index for v in spec.servers if s.task.reported & (1 << v.index) and (v.index, "Computed") not in s.mailbox.notes}
    return spec.result.sender not in failed and needed(spec, sorted(failed))


def _follow_notes(draft: Draft, s: TaskSnapshot, task: ChainTask) -> None:
    if task.phase is TaskPhase.COMPLETED:
        for kind in (Type.DATA_DELIVERED, Type.INPUTS_VERIFIED, Type.COMPUTED, Type.FINAL_STATE_SIGNED):
            # The task key signed the result only after all of it: stronger than the notes, which may be lost.
            draft.claim(kind, yes("Completed"))
    elif task.phase is TaskPhase.RUNNING and not isinstance(s.mailbox, Unknown) and s.mailbox.announced and s.spec:
        everybody = frozenset(server.index for server in s.spec.servers)
        receivers = frozenset(item.to for item in s.spec.inputs)
        wanted = (
            (Type.DATA_DELIVERED, "InputsDelivered", receivers),
            (Type.INPUTS_VERIFIED, "InputsVerified", receivers),
            (Type.COMPUTED, "Computed", everybody),
            (Type.FINAL_STATE_SIGNED, "FinalStateSigned", everybody),
        )
        for kind, event, servers in wanted:
            everywhere = all((index, event) in s.mailbox.notes for index in servers)
            draft.claim(kind, yes("Reported") if everywhere else no("InProgress"))
    if not isinstance(s.mailbox, Unknown) and s.mailbox.result and task.published_key:
        draft.claim(Type.RESULT_DELIVERED, yes("Delivered", "open it with `veilpod result`"))


# -- 10. and 11. destruction, settlement


def _destroyed(draft: Draft, task: ChainTask, clock: int) -> None:
    if _all_reported(task):
        draft.claim(Type.SANDBOX_DESTROYED, yes("Reported", "every server reported its sandbox destroyed"))
    elif task.phase in _OVER and not task.compute:
        draft.claim(Type.SANDBOX_DESTROYED, yes("NeverCreated"))
    elif clock > task.terms.report_by + POD_SLACK:
        draft.claim(
            Type.SANDBOX_DESTROYED, yes("DeadlinePassed", "a server never reported and lost its stake; its pod's own deadline has passed")
        )
    else:
        draft.claim(Type.SANDBOX_DESTROYED, no("WaitingForReports"))
        if task.phase in _OVER:
            draft.look_again(max(task.terms.report_by + POD_SLACK + 1 - clock, 1))


def _settle(draft: Draft, s: TaskSnapshot, task: ChainTask) -> None:
    draft.claim(Type.KEY_REVOKED, yes("Completed" if task.phase is TaskPhase.COMPLETED else "Closed"))
    if task.phase is TaskPhase.CLOSED:
        _say_why_no_key(draft, s)
        _fail(draft, s, "Computed" if task.published_key else "KeyPublished" if task.compute else "Scheduled", _code(s))
    if isinstance(s.channels, Unknown):
        draft.claim(Type.SETTLED, unknown(s.channels.why))
        draft.look_again(5)
    elif not all(channel.phase in (ChannelPhase.NONE, ChannelPhase.CLOSED) for channel in s.channels):
        draft.claim(Type.SETTLED, no("ChannelsOpen", "the servers' channels are closing; after a dispute this takes up to an hour"))
        draft.look_again(10)
    elif draft.claims[Type.SANDBOX_DESTROYED].status is not Status.TRUE:
        draft.claim(Type.SETTLED, no("WaitingForReports"))
    else:
        draft.claim(Type.SETTLED, yes("Settled"))
    if s.deleting:
        # Our money is settled by `Completed` or `Closed`; the servers' channels are theirs and never hold our object.
        draft.do(do.ForgetTask(), do.RemoveFinalizer())


def _all_reported(task: ChainTask) -> bool:
    return bool(task.compute) and task.reported == (1 << task.terms.servers) - 1


def _code(s: TaskSnapshot) -> str:
    """The code that best says why: what was decided before, what is proved, what a sandbox signed, or that a server left."""
    if s.failure:
        return s.failure.code
    if s.deleting:
        return "Cancelled"
    if (ceremony := _ceremony(s)) is not None and ceremony.proved:
        return "CeremonyFault"
    if not isinstance(s.mailbox, Unknown) and s.mailbox.failures:
        return s.mailbox.failures[0][1]
    # A server that could not be reached could not say why; where the directory shows it, it is said here.
    return s.relays.reason if s.relays else "SandboxLost"


def _late(s: TaskSnapshot) -> str:
    """Why something did not happen in time."""
    ceremony = _ceremony(s)
    if ceremony is not None and ceremony.proved:
        return "CeremonyFault"
    if s.relays:
        return s.relays.reason
    return "CeremonyTimeout" if ceremony is not None else "DeadlineExceeded"


def _fail(draft: Draft, s: TaskSnapshot, stage: str, code: str) -> None:
    draft.failure = s.failure or Failure(stage=stage, code=code)
    draft.claim(Type.FAILED, yes(draft.failure.code, failed_message(draft.failure)))


def _after(draft: Draft, clock: int, moment: int, *effects: do.Effect) -> None:
    if clock > moment:
        draft.do(*effects)
    else:
        draft.look_again(max(moment + 1 - clock, 1))
