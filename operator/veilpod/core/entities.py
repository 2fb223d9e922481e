"""What is read from the chain, as values. One block's view each: a reader never mixes two blocks in one value."""

import dataclasses
import enum

from veilpod.core.ids import Address, ChannelId, NodeId, ResourceId, TaskId

NATIVE = Address("0x" + "0" * 40)  # as an asset: the chain's coin
SEQUENCE_BITS = 40


def channel_version(epoch: int, sequence: int) -> int:
    """Number a channel's states, over all its sessions: epoch:16 | sequence:40."""
    return epoch << SEQUENCE_BITS | sequence


class Role(enum.IntFlag):
    """Role bits of a node in NodeRegistry."""

    USER = 1
    STORAGE = 2
    COMPUTE = 4
    RELAY = 8
    PROVIDER = 16
    ANY = USER | STORAGE | COMPUTE | RELAY | PROVIDER


class NodeStatus(enum.IntEnum):
    """NodeRegistry.Status."""

    NONE = 0
    ACTIVE = 1
    DRAINING = 2
    OFFLINE = 3
    SUSPENDED = 4
    RETIRED = 5


class TaskPhase(enum.IntEnum):
    """TaskScheduler.Phase."""

    NONE = 0
    REQUESTED = 1
    ASSIGNED = 2
    RUNNING = 3
    COMPLETED = 4
    CLOSED = 5


class ChannelPhase(enum.IntEnum):
    """ChannelManager.Phase."""

    NONE = 0
    OPENING = 1
    OPEN = 2
    DISPUTED = 3
    CLOSED = 4


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """An entry of the registry with the proof of possession from its newest NodeRegistered or NodeKey event (checked by who uses it)."""

    id: NodeId
    owner: Address
    roles: Role
    status: NodeStatus
    key_epoch: int
    updated_at: int  # unix seconds of the last heartbeat
    capacity: int  # sandboxes at a time (COMPUTE); else the KiB a second that a relay claims
    identity_key: bytes  # Ed25519, 32 bytes
    onion_key: bytes  # X25519, 32 bytes
    endpoint: str  # "ip:port" or ""
    proof: bytes  # 64 bytes, or b"" when the event was not found


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A data resource: who owns it, where it lies, the SHA-256 of its sealed form."""

    id: ResourceId
    owner: Address
    node: NodeId
    revoked: bool
    digest: bytes
    size: int
    name: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """TaskScheduler.Terms: wei and unix seconds."""

    servers: int
    per_server: int
    stake: int
    schedule_by: int
    key_by: int
    complete_by: int
    report_by: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChainTask:
    """A task as TaskScheduler has it, with what only its events carry. `phase` NONE means: not on chain (known, not unknown)."""

    id: TaskId
    phase: TaskPhase
    requester: Address
    stopping: bool
    reported: int  # bit i: server i reported
    escrow: int
    terms: Terms
    spec_hash: bytes
    key: Address | None  # while RUNNING
    result_hash: bytes | None  # once COMPLETED
    compute: tuple[NodeId, ...]
    stores: tuple[NodeId, ...]
    spec: bytes  # canonical JSON from the Requested event
    statements: tuple[bytes, ...]  # from KeyPublished, () before
    descriptors: bytes  # from KeyPublished, b"" before
    published_key: Address | None  # from KeyPublished: stays known after the key was revoked
    asset: Address = NATIVE  # of escrow and pay; stakes are in the chain's coin


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChannelTerms:
    """asset:160 | lane:48 | challengePeriod:32 | penaltyBps:16 of a channel id."""

    asset: Address
    lane: int
    challenge_period: int
    penalty_bps: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChainChannel:
    """A channel's word, unpacked."""

    id: ChannelId
    phase: ChannelPhase
    epoch: int
    sequence: int
    deadline: int
    balance_a: int
    balance_b: int

    @property
    def version(self) -> int:
        """The state that stands on chain."""
        return channel_version(self.epoch, self.sequence)

    def within(self, session: int) -> "ChainChannel":
        """What the channel is to one session of it: nothing before it was opened, closed once a later one is."""
        if self.epoch == session:
            return self
        phase = ChannelPhase.NONE if self.epoch < session else ChannelPhase.CLOSED
        return ChainChannel(id=self.id, phase=phase, epoch=session, sequence=0, deadline=0, balance_a=0, balance_b=0)

    @property
    def next_session(self) -> int:
        """The session that an opening now begins, or the one that is under way."""
        return self.epoch + 1 if self.phase in (ChannelPhase.NONE, ChannelPhase.CLOSED) else self.epoch


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChainEvent:
    """A hint from the log follower: something about `subject` changed. Truth is always read again."""

    contract: str  # "NodeRegistry" | "TaskScheduler" | "ChannelManager"
    name: str
    subject: bytes  # task, channel or resource id, or node id as 4 bytes
    args: dict[str, object]
    block: int
    transaction: bytes
