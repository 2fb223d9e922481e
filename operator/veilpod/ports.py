"""The few Protocols that the shell is written against, so that roles can be tested without a chain, a cluster or a network.

Everything here is async, bounded in time by its implementation, and raises the tree of `veilpod.errors`: an unanswered question is
Transient, never an empty answer.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol

from veilpod.core.entities import NATIVE, ChainChannel, ChainEvent, ChainTask, ChannelTerms, Node, NodeStatus, Resource, Role, Terms
from veilpod.core.evidence import Verdict
from veilpod.core.ids import Address, ChannelId, NodeId, ResourceId, TaskId
from veilpod.core.kinds import Kind


class ChainReader(Protocol):
    """What anybody can read. Every answer is at the confirmation depth the reader was made with."""

    async def now(self) -> int:
        """Unix seconds of the newest block."""

    async def node(self, node: NodeId) -> Node: ...
    async def directory(self, roles: Role) -> Sequence[Node]:
        """Every node with any of these roles, whole pages only, cached by block."""

    async def resource(self, resource: ResourceId) -> Resource | None: ...
    async def resources_named(self, name: str) -> Sequence[Resource]: ...
    async def task(self, task: TaskId) -> ChainTask: ...
    async def tasks_of(self, node: NodeId) -> Sequence[TaskId]:
        """Every task assigned to this computing or storage node that is not Completed or Closed, plus those of the last day."""

    async def channel(self, channel: ChannelId) -> ChainChannel: ...
    async def stake_of(self, owner: Address) -> tuple[int, int]:
        """(free, locked) in wei."""

    async def balance(self, owner: Address, asset: Address = NATIVE) -> int: ...

    async def decimals(self, token: Address) -> int: ...
    def events(self) -> AsyncIterator[ChainEvent]:
        """Hints, at least once each, from a durable cursor on."""


class ChainWriter(Protocol):
    """What our own key does.

    Each call returns when its transaction has a successful receipt at depth, and is idempotent where the contract is: repeating it
    after a crash either finds the earlier transaction or sees on chain that nothing is left to do. Raises ChainRejected with the custom
    error's name when simulation or the block refuses.
    """

    @property
    def address(self) -> Address: ...
    async def acted_at(self) -> int:
        """Unix seconds of the newest transaction that this very state directory sent and knows settled; 0 before the first."""

    async def register(
        self, *, roles: Role, capacity: int, identity_key: bytes, onion_key: bytes, endpoint: str, proof: bytes
    ) -> NodeId: ...
    async def rotate_key(self, node: NodeId, *, onion_key: bytes, proof: bytes) -> None: ...
    async def set_endpoint(self, node: NodeId, endpoint: str) -> None: ...
    async def set_capacity(self, node: NodeId, capacity: int) -> None: ...
    async def set_status(self, node: NodeId, status: NodeStatus) -> None: ...
    async def heartbeat(self, node: NodeId) -> None: ...
    async def add_resource(self, *, node: NodeId, name: str, digest: bytes, size: int) -> ResourceId: ...
    async def revoke_resource(self, resource: ResourceId) -> None: ...

    async def request(self, *, salt: bytes, spec: bytes, terms: Terms, budget: int, asset: Address = NATIVE) -> TaskId: ...
    async def assign(self, task: TaskId, compute: Sequence[NodeId], stores: Sequence[NodeId]) -> None: ...
    async def publish_key(
        self, task: TaskId, *, key: Address, statements: Sequence[bytes], signatures: bytes, descriptors: bytes
    ) -> None: ...
    async def report(self, task: TaskId, index: int) -> None: ...
    async def complete(self, task: TaskId, *, index: int, result_hash: bytes, signature: bytes) -> None: ...
    async def cancel(self, task: TaskId) -> None: ...
    async def refund(self, task: TaskId) -> None: ...
    async def deposit_stake(self, amount: int) -> None: ...

    async def open_channel(self, a: Address, b: Address, terms: ChannelTerms, *, deposit: int, peer_deposit: int) -> None: ...
    async def join_channel(self, a: Address, b: Address, terms: ChannelTerms, *, epoch: int, deposit: int) -> None: ...
    async def cancel_channel(self, a: Address, b: Address, terms: ChannelTerms) -> None: ...
    async def close_channel(
        self, a: Address, b: Address, terms: ChannelTerms, state: Any, signature_a: bytes, signature_b: bytes
    ) -> None: ...
    async def challenge(self, a: Address, b: Address, terms: ChannelTerms, state: Any, peer_signature: bytes) -> None: ...
    async def respond(self, a: Address, b: Address, terms: ChannelTerms, state: Any, signature_a: bytes, signature_b: bytes) -> None: ...
    async def finalize(self, a: Address, b: Address, terms: ChannelTerms) -> None: ...


class Cluster(Protocol):
    """The Kubernetes API as raw JSON.

    Every failure is ClusterUnavailable (also: the object changed under us) or Terminal; None is only ever the API server's own
    word that an object of this name is not there.
    """

    async def get(self, kind: Kind, name: str, *, namespace: str | None = None) -> dict[str, Any] | None: ...
    async def list_all(self, kind: Kind, *, namespace: str | None = None, labels: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        """Every object, whole (chunks are joined), or an error."""

    async def create(self, kind: Kind, body: Mapping[str, Any], *, namespace: str | None = None, exists_ok: bool = False) -> dict[str, Any]:
        """POST. With `exists_ok` an object of that name is returned as it is: the caller looks whether it is its own."""

    async def apply(self, kind: Kind, body: Mapping[str, Any], *, namespace: str | None = None) -> dict[str, Any]:
        """Server-side apply under our field manager; conflicts are ours."""

    async def delete(self, kind: Kind, name: str, *, uid: str, namespace: str | None = None, resource_version: str | None = None) -> bool:
        """Ask for the deletion of exactly this object, never forced. False: it is not there any more."""

    async def patch_status(self, kind: Kind, name: str, status: Mapping[str, Any], *, namespace: str | None = None) -> dict[str, Any]: ...
    async def set_finalizers(
        self, kind: Kind, name: str, finalizers: Sequence[str], *, resource_version: str, uid: str, namespace: str | None = None
    ) -> dict[str, Any] | None:
        """Replace the list, if the object is still the one that was read. None: removing the last finalizer let it go."""

    def watch(
        self, kind: Kind, *, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """("LISTED" | "ADDED" | "MODIFIED" | "DELETED", object): a list first, and again after each expiry. Raises when it breaks."""


class Tee(Protocol):
    """What a sandbox finds beneath it, if anything: it binds report data to hardware."""

    def collect(self, report_data: bytes) -> bytes:
        """Evidence over exactly these 48 bytes; empty where there is no TEE."""


class Verifier(Protocol):
    """Who judges evidence: a service that knows what hardware and firmware are good, such as a Trustee."""

    async def verify(self, *, report_data: bytes, evidence: bytes) -> Verdict:
        """Say whether the evidence is genuine and over this report data. Raises Transient when nobody could say."""


class Stream(Protocol):
    """An ordered byte stream inside a circuit or session. Reads and writes have back-pressure end to end."""

    async def read(self, limit: int = 65536) -> bytes:
        """Some bytes, b"" at the end of the stream. Raises CircuitFailed when the circuit broke."""

    async def readexactly(self, size: int) -> bytes: ...
    async def write(self, data: bytes) -> None:
        """Write and wait for credit."""

    async def write_eof(self) -> None: ...
    async def close(self) -> None: ...


class Session(Protocol):
    """An end-to-end encrypted meeting at a rendezvous: many labelled streams, both sides may open them."""

    @property
    def id(self) -> bytes:
        """32 bytes, equal on both sides, bound to both sides' ephemeral keys."""

    async def open_stream(self, label: str) -> Stream: ...
    async def accept_stream(self) -> tuple[str, Stream]:
        """Wait for the peer's next stream. Raises CircuitFailed when the session is over."""

    async def close(self) -> None: ...


class Onion(Protocol):
    """An onion proxy: what an agent or a store needs of the network."""

    on_trouble: Callable[[str], object] | None
    """Hears why an attempt at a circuit failed, while others are still made: a code of `core.onion.trouble`."""

    async def open(self, host: str, port: int) -> Stream:
        """A stream through a fresh circuit whose last relay exits to a registered endpoint."""

    async def rendezvous(self) -> "RendezvousPoint": ...
    async def connect(self, *, relay: NodeId, cookie: bytes, service_key: bytes) -> Session: ...
    async def close(self) -> None: ...


class RendezvousPoint(Protocol):
    """A circuit to a relay where a cookie waits. One cookie meets one peer."""

    relay: NodeId
    cookie: bytes  # 20 bytes
    service_key: bytes  # 32 bytes X25519, of this rendezvous only
    expires: int

    async def accept(self) -> Session:
        """Wait until the peer was spliced in and the end-to-end handshake is done."""

    async def close(self) -> None: ...


class ControlLink(Protocol):
    """The operator's end of a control stream (docs/protocol/task.md)."""

    @property
    def tls_key(self) -> bytes:
        """SHA-256 of the server's SPKI: whom we talk to, for as long as the link lives."""

    async def call(self, command: str, **args: Any) -> dict[str, Any]:
        """Send a command and wait for its answer. Raises PeerUnavailable, or Terminal with the server's code."""

    def events(self) -> AsyncIterator[tuple[int, str, dict[str, Any]]]:
        """(sequence, name, data), each at least once and in order; reconnects by itself."""

    async def acknowledge(self, sequence: int) -> None: ...
    async def close(self) -> None: ...
