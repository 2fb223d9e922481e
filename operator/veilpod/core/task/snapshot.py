"""What was observed, as frozen values: the only input of a decision beside the time.

An observation that failed is an `Unknown` in its place, never an empty value: no channel, no pod and no payment are statements that
somebody made, and only those are acted on.
"""

import dataclasses
from typing import TypeAlias, TypeVar

from veilpod.core.entities import NATIVE, ChainChannel, ChainTask, Terms
from veilpod.core.ids import Address, NodeId, PodUid, ServerIndex, TaskId
from veilpod.core.task.facts import Facts, Failure
from veilpod.core.task.spec import TaskSpec


@dataclasses.dataclass(frozen=True, slots=True)
class Unknown:
    """Nobody could say. `why` is a CamelCase reason for a condition."""

    why: str = "NotObserved"


T = TypeVar("T")
Seen: TypeAlias = T | Unknown


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Something that a person must correct first."""

    reason: str
    message: str


# -- the requester ----------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What would be requested now. `spec` is canonical."""

    spec: bytes
    terms: Terms
    budget: int
    asset: Address = NATIVE


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """Everything `publishKey` needs, verified: who signed, over which statements."""

    key: Address
    statements: tuple[bytes, ...]
    signatures: bytes
    descriptors: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """The sealed result in the mailbox, its signature verified against the task key."""

    result_hash: bytes
    size: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CeremonySeen:
    """The making of the task key: which word (`commit`, `reveal`, `confirm`) some servers have not said, and what is proved of others."""

    stage: str
    missing: tuple[ServerIndex, ...] = ()
    proved: tuple[tuple[ServerIndex, str], ...] = ()  # (index, kind of evidence)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MailboxSeen:
    """The requester's mailbox for one task; everything here was verified by who observed it."""

    announced: bool = False
    offers: frozenset[ServerIndex] = frozenset()
    ceremony: CeremonySeen | None = None  # None: not begun, or over
    publication: Publication | None = None
    notes: frozenset[tuple[ServerIndex, str]] = frozenset()  # (index, event)
    failures: tuple[tuple[ServerIndex, str], ...] = ()  # (index, code) of Failed notes
    result: Delivered | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TaskSnapshot:
    """A ComputeTask, as its requester sees the world."""

    id: TaskId
    deleting: bool
    finalizer: bool
    intent: Seen[Intent | Refusal]
    attempted_until: int | None  # schedule_by of a request that was sent and may still land
    failure: Failure | None
    task: Seen[ChainTask]
    chain_now: Seen[int]
    spec: TaskSpec | None  # of the task on chain, else of the intent
    candidates: Seen[tuple[NodeId, ...] | None]  # None: not enough servers qualify now
    mailbox: Seen[MailboxSeen]
    channels: Seen[tuple[ChainChannel, ...]]  # one per link of the spec
    relays: Refusal | None = None  # why the directory offers no path for the task's circuits


# -- a computing server -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PodSeen:
    """A pod with this assignment's labels. `intended`: it bears the nonce that was written down before it was made."""

    uid: PodUid
    name: str
    incarnation: int
    intended: bool
    deleting: bool = False
    terminated: bool = False  # the kubelet reports every container, init ones too, terminated
    kubelet_done: bool = False  # deletionGracePeriodSeconds is 0: the kubelet's own final delete
    finalizer: bool = True
    agent_image: str = ""  # the digest that its specification names
    images_match: bool | None = None  # None: the kubelet has not told the imageIDs yet
    restarted: bool = False  # a container came back: its keys did not
    ended: bool = False  # phase Failed or Succeeded
    node_lost: bool = False
    has_address: bool = False
    refused: bool = False  # netguard reached what it must not reach: the fence does not hold
    unproved: bool = False  # netguard gave up: whether the fence holds could not be seen
    stuck: str = ""  # why a container cannot begin: ImageUnavailable, ContainerRefused or Unschedulable


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSeen:
    """A channel of this assignment: what the chain says, and what was signed off chain."""

    peer: ServerIndex
    chain: Seen[ChainChannel]
    exists: bool  # its StateChannel object
    final: bool = False  # both Close signatures are on disk


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """The fences in force, as a hash over what the API server holds. `missing`: what is not there, or opens what others close."""

    digest: bytes
    missing: tuple[str, ...] = ()
    host_access_denied: bool = True  # the SandboxClass promises it, and who gets in is part of what was looked at


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServerSnapshot:
    """A TaskAssignment, as its computing server sees the world."""

    task_id: TaskId
    index: ServerIndex
    deleting: bool
    finalizer: bool
    spec: TaskSpec | Refusal  # Refusal: this server cannot honour it
    task: Seen[ChainTask]
    chain_now: Seen[int]
    facts: Facts
    pods: Seen[tuple[PodSeen, ...]]
    connected: bool  # the control stream to the pod of the current incarnation
    policies: Seen[Policies]
    channels: tuple[ChannelSeen, ...]
    relays: Refusal | None = None  # why the directory offers no path for the task's circuits


# -- one channel ------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSnapshot:
    """A StateChannel, as one of its two parties sees it."""

    chain: Seen[ChainChannel]
    task: Seen[ChainTask]
    chain_now: Seen[int]
    is_a: bool
    deposit: int
    peer_deposit: int
    wanted: bool  # the assignment works towards publishing or runs
    destroyed: bool  # no sandbox of the assignment exists any more, on record
    newest: int  # version of the newest state with both signatures, 0 when there is none
    final: bool  # both Close signatures for a state of this epoch
    settling_for: int  # seconds of the chain's clock since it was first seen that the channel may be settled
    deleting: bool
    finalizer: bool
