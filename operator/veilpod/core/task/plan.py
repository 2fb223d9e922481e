"""What a decision asks the shell to do: effects as data, claims for the conditions, when to look again.

Effects are executed in their order; when one fails, the rest of the plan is dropped and the world is observed again. Each is
idempotent, or its outcome shows in the next observation, so a crash between any two is harmless.
"""

import dataclasses
import typing

from veilpod.core.ids import NodeId, PodUid
from veilpod.core.task.conditions import Claim, Type
from veilpod.core.task.facts import Failure, SignedResult
from veilpod.core.task.snapshot import Intent, Publication

C = typing.TypeVar("C")


@typing.dataclass_transform(frozen_default=True, kw_only_default=True)
def _value(cls: type[C]) -> type[C]:
    return dataclasses.dataclass(frozen=True, slots=True, kw_only=True)(cls)


@_value
class Effect:
    """One thing to do."""


@_value
class AddFinalizer(Effect):
    """Hold the object until its obligations are met."""


@_value
class RemoveFinalizer(Effect):
    """Let the object go."""


# -- requester


@_value
class RequestTask(Effect):
    """Send the specification and the budget; note the deadline first, for the transaction may land later than we live."""

    intent: Intent


@_value
class AssignServers(Effect):
    """Engage these computing servers, in the order of the roles."""

    compute: tuple[NodeId, ...]


@_value
class AnnounceTask(Effect):
    """Tell the mailbox which task and which owners to expect."""


@_value
class PublishKey(Effect):
    """Put the sandbox key on chain with every server's signature."""

    publication: Publication


@_value
class CancelTask(Effect):
    """Close a task that nobody was assigned to, or ask its servers to stop."""


@_value
class Refund(Effect):
    """Close the task on chain: its key is void, what is unspent goes back."""


@_value
class ForgetTask(Effect):
    """Empty the mailbox of a task whose object goes."""


# -- computing server: towards the sandbox


@_value
class RecordFailure(Effect):
    """Write down why this server ends its part. The first failure stays."""

    failure: Failure


@_value
class CreateChannels(Effect):
    """Make the StateChannel objects that are missing; each opens or joins by itself."""


@_value
class BeginIncarnation(Effect):
    """Write down the intent of a new sandbox, before it is made."""

    incarnation: int


@_value
class CreatePod(Effect):
    """Make the pod of the recorded intent."""


@_value
class ConfigureAgent(Effect):
    """Give the agent its task. Repeating it is fine."""


@_value
class CountersignStatement(Effect):
    """Check the statement against the live API, note its digest, countersign it and let the agent offer it."""


@_value
class SignSandboxKey(Effect):
    """Sign the task key for the statements of all servers: once per task, whatever is asked later."""


@_value
class HandDescriptors(Effect):
    """Give the agent what `KeyPublished` said."""


# -- computing server: the end, in the order of the law


@_value
class RecordEnding(Effect):
    """Write down that the end has begun; patience is counted from here."""


@_value
class RequestFinals(Effect):
    """Ask each peer for the final channel state. Repeating it is fine."""


@_value
class PersistFinalStates(Effect):
    """Make sure that final (or newest) states and the result are on disk, then note it: destruction may begin."""


@_value
class Release(Effect):
    """Let the sandbox end by itself."""


@_value
class Zeroise(Effect):
    """Have the agent wipe keys and volumes; keep its signed answer."""


@_value
class RecordUnreachable(Effect):
    """Write down that no zeroise answer can be had."""


@_value
class DeletePod(Effect):
    """Ask for the deletion of exactly this pod, never forced."""

    name: str
    uid: PodUid


@_value
class RecordEvidence(Effect):
    """Write down that the kubelet reported this pod's containers dead and made its own final delete."""

    uid: PodUid
    unproved: bool = False  # netguard had given up in it


@_value
class ReleasePodFinalizer(Effect):
    """Let the API server forget a pod whose end is on record."""

    name: str
    uid: PodUid


@_value
class RecordDestroyed(Effect):
    """Write down that no sandbox of this assignment exists, and how that is known."""

    reason: str


@_value
class ReportDestroyed(Effect):
    """Tell the chain that the sandbox is gone."""


@_value
class CompleteTask(Effect):
    """Put the result's hash on chain: pays, and voids the key in the same transaction."""

    result: SignedResult


# -- one channel


@_value
class OpenChannel(Effect):
    """Lock our deposit as `a`."""


@_value
class JoinChannel(Effect):
    """Lock our deposit as `b`, in exactly this epoch."""

    epoch: int


@_value
class CancelChannel(Effect):
    """Take back the deposit of a channel that nobody joined."""


@_value
class CloseChannel(Effect):
    """Close at once with the final state."""


@_value
class Challenge(Effect):
    """Begin to close alone with the newest state that both signed."""


@_value
class Respond(Effect):
    """Answer an older state with the newest."""


@_value
class Finalize(Effect):
    """Pay out a disputed channel whose period is over."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A decision. `failure`: what the status shows."""

    effects: tuple[Effect, ...] = ()
    claims: dict[Type, Claim] = dataclasses.field(default_factory=dict)
    requeue_after: float | None = None
    failure: Failure | None = None

    def held_up(self, effect: Effect, claim: Claim) -> "Plan":
        """The plan as it stands when an effect cannot be had: the condition it works towards says why."""
        kind = _TOWARDS.get(type(effect))
        return self if kind is None else dataclasses.replace(self, claims={**self.claims, kind: claim})


_TOWARDS: dict[type[Effect], Type] = {
    RequestTask: Type.REQUESTED,
    AssignServers: Type.SCHEDULED,
    OpenChannel: Type.CHANNELS_OPEN,
    JoinChannel: Type.CHANNELS_OPEN,
    PublishKey: Type.KEY_PUBLISHED,
    CancelTask: Type.KEY_REVOKED,
    Refund: Type.KEY_REVOKED,
    ReportDestroyed: Type.KEY_REVOKED,
    CompleteTask: Type.KEY_REVOKED,
    CancelChannel: Type.SETTLED,
    CloseChannel: Type.SETTLED,
    Challenge: Type.SETTLED,
    Respond: Type.SETTLED,
    Finalize: Type.SETTLED,
}


@dataclasses.dataclass(slots=True)
class Draft:
    """A plan being written, top to bottom."""

    effects: list[Effect] = dataclasses.field(default_factory=list)
    claims: dict[Type, Claim] = dataclasses.field(default_factory=dict)
    wake: float | None = None
    failure: Failure | None = None

    def do(self, *effects: Effect) -> "Draft":
        """Append effects."""
        self.effects += effects
        return self

    def claim(self, kind: Type, claim: Claim) -> None:
        """Say what a condition is now."""
        self.claims[kind] = claim

    def look_again(self, seconds: float) -> None:
        """Look again after at most so many seconds."""
        self.wake = seconds if self.wake is None else min(self.wake, max(seconds, 0.1))

    def plan(self) -> Plan:
        """The finished plan."""
        return Plan(effects=tuple(self.effects), claims=self.claims, requeue_after=self.wake, failure=self.failure)
