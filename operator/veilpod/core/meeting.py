"""What sandboxes say to each other through the requester's mailbox, before and after the task key is published (paper steps 4, 5, 8).

Offer: here is my statement, vouched for by my server. Acceptance: my server accepts this key for this set of statements, and here is
where I can be met, sealed to each who needs it. Note: how far I am, so that a requester's operator need not trust a server's. Parsing
refuses what no honest party sends; verifying takes what the chain says about who is who.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from veilpod.core.canonical import canonical, parse_canonical, tagged_digest, to_hex
from veilpod.core.fields import Fields
from veilpod.core.ids import Address, NodeId, ServerIndex, TaskId
from veilpod.core.keys import SIGNATURE_BYTES, SigningKey, recover
from veilpod.core.onion.trouble import TROUBLES
from veilpod.core.sealing import open_classic, seal_classic
from veilpod.core.statement import Statement, parse_statement, verify_countersignature, verify_statement
from veilpod.core.typed_data import Domain, result_digest, sandbox_key_digest, statements_hash
from veilpod.errors import ProtocolViolation

NOTE_TAG = "veilpod.note.v1"
DESCRIPTOR_TAG = "veilpod.descriptor.v1"
RESULT_CHUNK = 1 << 19  # its hex and the rest of the request fit into one frame of a sealed request
MAX_SERVERS = 16
NOTE_EVENTS = frozenset({"InputsDelivered", "InputsVerified", "Computed", "ResultDelivered", "FinalStateSigned", "Failed"})
FAILURES = TROUBLES | frozenset(
    {
        "NetguardRefused",
        "InputRefused",
        "InputTimeout",
        "MeetingTimeout",
        "StatementRefused",
        "ProgramFailed",
        "ProgramNotConfined",
        "ProgramNotStarted",
        "ProgramTimeout",
        "ResultTooLarge",
        "DeliveryFailed",
        "PeerLost",
        "AgentRestarted",
        "SandboxLost",
        "Cancelled",
        "DeadlineExceeded",
    }
)
_MAX_NODE = (1 << 32) - 1
_MAX_DESCRIPTORS = 64
_SEALED_DESCRIPTOR = 1024


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Server `statement.index`'s sandbox, ready to be given a task."""

    statement: Statement
    signature: bytes
    server_signature: bytes

    def document(self) -> dict[str, Any]:
        """The args of `put-offer`."""
        return {
            "taskId": to_hex(self.statement.task),
            "index": self.statement.index,
            "statement": self.statement.document(),
            "signature": to_hex(self.signature),
            "serverSignature": to_hex(self.server_signature),
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ForStore:
    """A descriptor's reader: a store, by its node id."""

    node: NodeId


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ForPeer:
    """A descriptor's reader: another sandbox of the task."""

    index: ServerIndex


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SealedDescriptor:
    """A descriptor that only its reader can open."""

    to: ForStore | ForPeer
    sealed: bytes

    def document(self) -> dict[str, Any]:
        """The JSON form, in acceptances and on chain."""
        to = {"node": int(self.to.node)} if isinstance(self.to, ForStore) else {"index": int(self.to.index)}
        return {"to": to, "sealed": to_hex(self.sealed)}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """Server `index` accepts the task key. `signature` is its chain key's, over EIP-712 SandboxKey."""

    task: TaskId
    index: ServerIndex
    signature: bytes
    descriptors: tuple[SealedDescriptor, ...]

    def document(self) -> dict[str, Any]:
        """The args of `put-acceptance`."""
        return {
            "taskId": to_hex(self.task),
            "index": self.index,
            "signature": to_hex(self.signature),
            "descriptors": [descriptor.document() for descriptor in self.descriptors],
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """Where server `sender` can be met until `expires` (unix seconds): one cookie at one relay, for one reader."""

    relay: NodeId
    cookie: bytes
    service_key: bytes
    expires: int
    sender: ServerIndex


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One step that a sandbox attests. `code` is a failure code with event Failed, otherwise empty."""

    task: TaskId
    index: ServerIndex
    event: str
    code: str
    time: int
    signature: bytes

    def document(self) -> dict[str, Any]:
        """The args of `put-note`."""
        return {**self._signed_part(), "signature": to_hex(self.signature)}

    @property
    def digest(self) -> bytes:
        """What the sandbox key signs. 32 bytes."""
        return tagged_digest(NOTE_TAG, self._signed_part())

    def _signed_part(self) -> dict[str, Any]:
        return {"taskId": to_hex(self.task), "index": self.index, "event": self.event, "code": self.code, "time": self.time}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ResultPiece:
    """A piece of the sealed result S: `digest` is SHA-256 of all of S, `signature` the task key's over EIP-712 Result."""

    task: TaskId
    offset: int
    total: int
    digest: bytes
    signature: bytes
    chunk: bytes

    def document(self) -> dict[str, Any]:
        """The args of `put-result`."""
        return {
            "taskId": to_hex(self.task),
            "offset": self.offset,
            "total": self.total,
            "digest": to_hex(self.digest),
            "signature": to_hex(self.signature),
            "chunk": to_hex(self.chunk),
        }


def parse_offer(value: Any, *, party: str = "agent") -> Offer:
    """Read an offer. Raises ProtocolViolation."""
    fields = Fields(value, what="offer", party=party)
    offer = Offer(
        statement=parse_statement(fields.take("statement"), party=party),
        signature=fields.data("signature", SIGNATURE_BYTES),
        server_signature=fields.data("serverSignature", SIGNATURE_BYTES),
    )
    if fields.data("taskId", 32) != offer.statement.task or fields.integer("index") != offer.statement.index:
        raise fields.violation("is for another task or index than its statement")
    fields.done()
    return offer


def verify_offer(offer: Offer, *, task: TaskId, index: ServerIndex, owner: Address, party: str = "agent") -> None:
    """Check both signatures and that it is this server's offer for this task. Raises ProtocolViolation("StatementRefused")."""
    if offer.statement.task != task or offer.statement.index != index:
        raise ProtocolViolation("StatementRefused", "an offer for another task or place in it", party=party)
    verify_statement(offer.statement, offer.signature, party=party)
    verify_countersignature(offer.statement, offer.server_signature, owner, party=party)


def parse_acceptance(value: Any, *, party: str = "agent") -> Acceptance:
    """Read an acceptance. Raises ProtocolViolation."""
    fields = Fields(value, what="acceptance", party=party)
    acceptance = Acceptance(
        task=TaskId(fields.data("taskId", 32)),
        index=ServerIndex(fields.integer("index", maximum=MAX_SERVERS - 1)),
        signature=fields.data("signature", SIGNATURE_BYTES),
        descriptors=tuple(_sealed_descriptor(item, party) for item in fields.items("descriptors", maximum=_MAX_DESCRIPTORS)),
    )
    fields.done()
    return acceptance


def verify_acceptance(
    acceptance: Acceptance, *, domain: Domain, key: Address, statements: Sequence[bytes], owner: Address, party: str = "agent"
) -> None:
    """Check that the server signed SandboxKey for this key and these statement digests. Raises ProtocolViolation("AcceptanceRefused")."""
    digest = sandbox_key_digest(domain, acceptance.task, key=key, statements_hash=statements_hash(statements))
    if recover(digest, acceptance.signature) != owner:
        raise ProtocolViolation("AcceptanceRefused", "the acceptance is not signed by the assigned server", party=party)


def descriptors_document(acceptances: Sequence[Acceptance]) -> bytes:
    """The bytes of `publishKey`'s descriptors: all descriptors in the order of the acceptances."""
    return canonical([descriptor.document() for acceptance in acceptances for descriptor in acceptance.descriptors])


def parse_descriptors(data: bytes) -> tuple[SealedDescriptor, ...]:
    """Read the descriptors of a KeyPublished event. Raises ProtocolViolation."""
    value = parse_canonical(data)
    if not isinstance(value, list) or len(value) > MAX_SERVERS * _MAX_DESCRIPTORS:
        raise ProtocolViolation("BadMessage", "descriptors are a list", party="requester")
    return tuple(_sealed_descriptor(item, "requester") for item in value)


def seal_descriptor(descriptor: Descriptor, *, task: TaskId, to: ForStore | ForPeer, reader_key: bytes) -> SealedDescriptor:
    """Seal to the reader's X25519 key: a store's node onion key or a peer's statement onion key."""
    body = {
        "relay": int(descriptor.relay),
        "cookie": to_hex(descriptor.cookie),
        "serviceKey": to_hex(descriptor.service_key),
        "expires": descriptor.expires,
        "from": int(descriptor.sender),
    }
    return SealedDescriptor(to=to, sealed=seal_classic(reader_key, canonical(body), tag=DESCRIPTOR_TAG, context=task))


def open_descriptor(sealed: SealedDescriptor, key: X25519PrivateKey, *, task: TaskId) -> Descriptor:
    """Open a descriptor addressed to us. Raises ProtocolViolation("CannotOpen" | "BadMessage")."""
    fields = Fields(parse_canonical(open_classic(key, sealed.sealed, tag=DESCRIPTOR_TAG, context=task)), what="descriptor", party="agent")
    descriptor = Descriptor(
        relay=NodeId(fields.integer("relay", minimum=1, maximum=_MAX_NODE)),
        cookie=fields.data("cookie", 20),
        service_key=fields.data("serviceKey", 32),
        expires=fields.integer("expires"),
        sender=ServerIndex(fields.integer("from", maximum=MAX_SERVERS - 1)),
    )
    fields.done()
    return descriptor


def make_note(*, task: TaskId, index: ServerIndex, event: str, code: str, time: int, key: SigningKey) -> Note:
    """Sign a note with the sandbox key."""
    note = Note(task=task, index=index, event=event, code=code, time=time, signature=b"")
    return dataclasses.replace(note, signature=key.sign(note.digest))


def parse_note(value: Any, *, party: str = "agent") -> Note:
    """Read a note: events and codes are of the fixed vocabulary. Raises ProtocolViolation."""
    fields = Fields(value, what="note", party=party)
    event = fields.choice("event", NOTE_EVENTS)
    note = Note(
        task=TaskId(fields.data("taskId", 32)),
        index=ServerIndex(fields.integer("index", maximum=MAX_SERVERS - 1)),
        event=event,
        code=fields.choice("code", FAILURES if event == "Failed" else frozenset({""})),
        time=fields.integer("time"),
        signature=fields.data("signature", SIGNATURE_BYTES),
    )
    fields.done()
    return note


def verify_note(note: Note, signing_key: Address, *, party: str = "agent") -> None:
    """Check that the sandbox of this statement wrote it. Raises ProtocolViolation("NoteRefused")."""
    if recover(note.digest, note.signature) != signing_key:
        raise ProtocolViolation("NoteRefused", "the note is not signed by the sandbox key", party=party)


def parse_result_piece(value: Any, *, maximum: int, party: str = "agent") -> ResultPiece:
    """Read a piece of at most 512 KiB of a result of at most `maximum` bytes. Raises ProtocolViolation."""
    fields = Fields(value, what="result piece", party=party)
    piece = ResultPiece(
        task=TaskId(fields.data("taskId", 32)),
        offset=fields.integer("offset", maximum=maximum),
        total=fields.integer("total", minimum=1, maximum=maximum),
        digest=fields.data("digest", 32),
        signature=fields.data("signature", SIGNATURE_BYTES),
        chunk=fields.data("chunk", maximum=RESULT_CHUNK),
    )
    if not piece.chunk or piece.offset + len(piece.chunk) > piece.total:
        raise fields.violation("lies outside the result")
    fields.done()
    return piece


def verify_result(*, domain: Domain, task: TaskId, result_hash: bytes, signature: bytes, key: Address, party: str = "agent") -> None:
    """Check the task key's signature over a result hash. Raises ProtocolViolation("ResultRefused")."""
    if recover(result_digest(domain, task, result_hash=result_hash), signature) != key:
        raise ProtocolViolation("ResultRefused", "the result is not signed by the task key", party=party)


def _sealed_descriptor(value: Any, party: str) -> SealedDescriptor:
    fields = Fields(value, what="descriptor", party=party)
    to = fields.take("to")
    target = Fields(to, what="descriptor.to", party=party)
    reader: ForStore | ForPeer
    if isinstance(to, dict) and "node" in to:
        reader = ForStore(node=NodeId(target.integer("node", minimum=1, maximum=_MAX_NODE)))
    else:
        reader = ForPeer(index=ServerIndex(target.integer("index", maximum=MAX_SERVERS - 1)))
    target.done()
    sealed = SealedDescriptor(to=reader, sealed=fields.data("sealed", maximum=_SEALED_DESCRIPTOR))
    fields.done()
    return sealed
