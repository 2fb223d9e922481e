"""Which code of the one vocabulary stands for whatever went wrong in a sandbox (docs/protocol/task.md, "Failure codes")."""

import logging

from veilpod.agent.state import Phase
from veilpod.core.agent_messages import Exit, Failed
from veilpod.core.ids import ServerIndex
from veilpod.core.meeting import FAILURES
from veilpod.errors import PeerFault, Refused

# Codes that say only that time was over. A trouble with relays that was met not long before explains it better.
TOO_LATE = frozenset({"MeetingTimeout", "CeremonyTimeout", "PeerLost", "DeliveryFailed", "DeadlineExceeded"})

_BY_PHASE = {
    Phase.CONFIGURED: "MeetingTimeout",
    Phase.READY: "MeetingTimeout",
    Phase.OFFERED: "MeetingTimeout",
    Phase.ACCEPTED: "StatementRefused",
    Phase.PUBLISHED: "InputRefused",
    Phase.VERIFIED: "ProgramFailed",
    Phase.RUNNING: "ProgramFailed",
    Phase.EXITED: "DeliveryFailed",
}
_BY_ENDING = {"Deadline": "ProgramTimeout", "NotStarted": "ProgramNotStarted", "NotConfined": "ProgramNotConfined"}
_BY_REASON = dict.fromkeys(("CanaryReachable", "PeerUnreachable", "ProbeFailed"), "NetguardRefused")

log = logging.getLogger(__name__)


def failure_of(error: BaseException, phase: Phase) -> Failed:
    """Read an error: its reason where the vocabulary has it, else what the phase was about; and the peer that it blames."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    reason = getattr(error, "reason", "")
    reason = _BY_REASON.get(reason, reason)
    log.warning("sandbox.error", extra={"error": type(error).__name__, "reason": reason})
    peer = ServerIndex(error.peer) if isinstance(error, PeerFault) else None
    return Failed(code=reason if reason in FAILURES else _BY_PHASE.get(phase, "SandboxLost"), peer=peer)


def of_its_own(ended: Exit) -> bool:
    """Whether a program ended by itself, and not well."""
    return not ended.success and ended.how not in _BY_ENDING


def check_ending(ended: Exit) -> None:
    """Raise Refused with a code of the vocabulary when the program did not end with success."""
    if not ended.success:
        raise Refused(_BY_ENDING.get(ended.how, "ProgramFailed"), f"the program ended: {ended.how}")
