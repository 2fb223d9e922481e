"""What sandboxes say to each other while they make the task key: three words each, all signed by the key of their statement.

    commit     the hash of 32 random bytes, and a key of this one ceremony that shares are sealed to
    reveal     every commitment that was seen, with its signature, and the random bytes sealed to each member
    confirm    the key that followed

What is signed is small; what only travels along (`bodies`: a ceremony key, sealed shares) is named in it by its SHA-256. So a word can be
shown to anybody as evidence, without what it carried for others.
"""

import dataclasses
import enum
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Self

from veilpod.core.canonical import tagged_digest, to_hex
from veilpod.core.fields import Fields, address_bytes
from veilpod.core.ids import Address, ServerIndex, TaskId
from veilpod.core.keys import SIGNATURE_BYTES, SigningKey, recover
from veilpod.core.meeting import Offer
from veilpod.core.sealing import HYBRID_PUBLIC_BYTES, check_hybrid_public
from veilpod.core.typed_data import statements_hash
from veilpod.errors import InvalidInput, ProtocolViolation

MAX_MEMBERS = 16
_MAX_SHARE = 2048  # bytes of 32 sealed ones, and room


class Stage(enum.StrEnum):
    """The three rounds, in order."""

    COMMIT = "commit"
    REVEAL = "reveal"
    CONFIRM = "confirm"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ceremony:
    """Which ceremony: one for each set of statements of a task. `signers` are the sandbox keys that they name, by index."""

    task: TaskId
    statements: bytes  # statementsHash, 32 bytes
    signers: tuple[Address, ...]

    @classmethod
    def of(cls, task: TaskId, offers: Iterable[Offer]) -> Self:
        """The ceremony that follows from everybody's offer, all of them verified."""
        statements = sorted((offer.statement for offer in offers), key=lambda statement: statement.index)
        return cls(
            task=task,
            statements=statements_hash([statement.digest for statement in statements]),
            signers=tuple(statement.signing_key for statement in statements),
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Word:
    task: TaskId
    statements: bytes
    index: ServerIndex
    signature: bytes = b""

    stage: ClassVar[Stage]

    @property
    def digest(self) -> bytes:
        """What the sandbox key signs. 32 bytes."""
        return tagged_digest(f"veilpod.ceremony.{self.stage}.v1", self._signed_part())

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {**self._signed_part(), "signature": to_hex(self.signature)}

    def signed(self, key: SigningKey) -> Self:
        """The same with this key's signature."""
        return dataclasses.replace(self, signature=key.sign(self.digest))

    def _signed_part(self) -> dict[str, Any]:
        return {
            "taskId": to_hex(self.task),
            "statementsHash": to_hex(self.statements),
            "index": int(self.index),
            "stage": str(self.stage),
            **self._own_part(),
        }

    def _own_part(self) -> dict[str, Any]:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Commitment(_Word):
    """`commitment` hides the random bytes, `key` is SHA-256 of the ceremony key."""

    commitment: bytes
    key: bytes

    stage = Stage.COMMIT

    def _own_part(self) -> dict[str, Any]:
        return {"commitment": to_hex(self.commitment), "key": to_hex(self.key)}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reveal(_Word):
    """`seen` are all commitments by index, `shares` SHA-256 of what is sealed to each member, by index."""

    seen: tuple[Commitment, ...]
    shares: tuple[bytes, ...]

    stage = Stage.REVEAL

    def _own_part(self) -> dict[str, Any]:
        seen = [{"commitment": to_hex(one.commitment), "key": to_hex(one.key), "signature": to_hex(one.signature)} for one in self.seen]
        return {"seen": seen, "shares": [to_hex(share) for share in self.shares]}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation(_Word):
    """From the commitments with this digest, this key followed."""

    commitments: bytes
    key: Address

    stage = Stage.CONFIRM

    def _own_part(self) -> dict[str, Any]:
        return {"commitments": to_hex(self.commitments), "key": to_hex(address_bytes(self.key))}


Word = Commitment | Reveal | Confirmation


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """A word and what travels with it: a commitment's ceremony key, a reveal's sealed shares by reader, nothing with a confirmation."""

    word: Word
    bodies: tuple[bytes, ...] = ()

    def document(self) -> dict[str, Any]:
        """The args of `put-ceremony`."""
        return {"word": self.word.document(), "bodies": [to_hex(body) for body in self.bodies]}

    def to(self, reader: ServerIndex) -> "Received":
        """What one member needs of it."""
        at = int(reader) if isinstance(self.word, Reveal) else 0
        return Received(word=self.word, body=self.bodies[at] if self.bodies else b"")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A word as one member gets it: with the ceremony key, with its own share, or with nothing."""

    word: Word
    body: bytes

    def document(self) -> dict[str, Any]:
        """The form in an answer of the mailbox."""
        return {"word": self.word.document(), "body": to_hex(self.body)}


def parse_word(value: Any, *, party: str = "agent") -> Word:
    """Read a word. Raises ProtocolViolation."""
    fields = Fields(value, what="ceremony word", party=party)
    stage = Stage(fields.choice("stage", frozenset(Stage)))
    task, statements = TaskId(fields.data("taskId", 32)), fields.data("statementsHash", 32)
    index = ServerIndex(fields.integer("index", maximum=MAX_MEMBERS - 1))
    signature = fields.data("signature", SIGNATURE_BYTES)
    word: Word
    if stage is Stage.COMMIT:
        commitment, key = fields.data("commitment", 32), fields.data("key", 32)
        word = Commitment(task=task, statements=statements, index=index, signature=signature, commitment=commitment, key=key)
    elif stage is Stage.REVEAL:
        items = fields.items("seen", maximum=MAX_MEMBERS)
        seen = tuple(_seen(item, task, statements, ServerIndex(at), party) for at, item in enumerate(items))
        shares = tuple(_bytes(item, party, 32) for item in fields.items("shares", maximum=MAX_MEMBERS))
        word = Reveal(task=task, statements=statements, index=index, signature=signature, seen=seen, shares=shares)
    else:
        commitments, address = fields.data("commitments", 32), fields.address("key")
        word = Confirmation(task=task, statements=statements, index=index, signature=signature, commitments=commitments, key=address)
    fields.done()
    return word


def parse_post(value: Any, *, party: str = "agent") -> Post:
    """Read a post: its bodies are those that its word names. Raises ProtocolViolation."""
    fields = Fields(value, what="ceremony post", party=party)
    word = parse_word(fields.take("word"), party=party)
    bodies = tuple(_bytes(item, party) for item in fields.items("bodies", maximum=MAX_MEMBERS))
    fields.done()
    if len(bodies) != len(_named(word)):
        raise fields.violation("has too few bodies, or too many")
    for named, body in zip(_named(word), bodies, strict=True):
        _check_body(word, named, body, party)
    return Post(word=word, bodies=bodies)


def parse_received(value: Any, reader: ServerIndex, *, party: str = "mailbox") -> Received:
    """Read a word with the body for one reader. Raises ProtocolViolation."""
    fields = Fields(value, what="ceremony word", party=party)
    word, body = parse_word(fields.take("word"), party=party), fields.data("body", maximum=_MAX_SHARE)
    fields.done()
    named = _named(word)
    at = int(reader) if isinstance(word, Reveal) else 0
    if (named and at >= len(named)) or (not named and body):
        raise fields.violation("has no body for this reader")
    if named:
        _check_body(word, named[at], body, party)
    return Received(word=word, body=body)


def parse_confirmations(value: Any, *, party: str) -> tuple[Confirmation, ...]:
    """Read a list of confirmations. Raises ProtocolViolation."""
    words = [
        parse_word(item, party=party) for item in Fields({"words": value}, what="ceremony", party=party).items("words", maximum=MAX_MEMBERS)
    ]
    if not all(isinstance(word, Confirmation) for word in words):
        raise ProtocolViolation("BadMessage", "not all of these are confirmations", party=party)
    return tuple(word for word in words if isinstance(word, Confirmation))


def confirmed_key(ceremony: Ceremony, confirmations: Sequence[Confirmation], *, party: str = "agent") -> Address:
    """The task key that every sandbox confirmed. Raises ProtocolViolation("KeyRefused") unless all did, and the same."""
    for word in confirmations:
        verify_word(ceremony, word, party=party)
    if [word.index for word in confirmations] != list(range(len(ceremony.signers))) or len({word.key for word in confirmations}) != 1:
        raise ProtocolViolation("KeyRefused", "not every sandbox has confirmed the same key", party=party)
    return confirmations[0].key


def verify_word(ceremony: Ceremony, word: Word, *, party: str = "agent") -> None:
    """Check that this member said it in this ceremony. Raises ProtocolViolation("WordRefused"). What a word quotes is not checked."""
    count = len(ceremony.signers)
    if (word.task, word.statements) != (ceremony.task, ceremony.statements) or word.index >= count:
        raise ProtocolViolation("WordRefused", "a word of another ceremony", party=party)
    if isinstance(word, Reveal) and not len(word.seen) == len(word.shares) == count:
        raise ProtocolViolation("WordRefused", "a reveal has something for each member", party=party)
    if not holds(ceremony, word):
        raise ProtocolViolation("WordRefused", "a word that its sandbox did not sign", party=party)


def holds(ceremony: Ceremony, word: Word) -> bool:
    """Whether a word bears the signature of its member."""
    try:
        return recover(word.digest, word.signature) == ceremony.signers[word.index]
    except ProtocolViolation:
        return False


def body_digest(body: bytes) -> bytes:
    """SHA-256: how a word names what travels with it. 32 bytes."""
    return hashlib.sha256(body).digest()


def _named(word: Word) -> Sequence[bytes]:
    if isinstance(word, Commitment):
        return (word.key,)
    return word.shares if isinstance(word, Reveal) else ()


def _check_body(word: Word, named: bytes, body: bytes, party: str) -> None:
    if body_digest(body) != named:
        raise ProtocolViolation("BadMessage", "a ceremony word travels with another body than it names", party=party)
    if isinstance(word, Commitment):
        # A key that nothing can be sealed to would make its owner's lie look like everybody else's.
        try:
            check_hybrid_public(body)
        except InvalidInput as error:
            raise ProtocolViolation("BadMessage", "a ceremony key that nothing can be sealed to", party=party) from error


def _seen(value: Any, task: TaskId, statements: bytes, index: ServerIndex, party: str) -> Commitment:
    fields = Fields(value, what="seen commitment", party=party)
    commitment = Commitment(
        task=task,
        statements=statements,
        index=index,
        commitment=fields.data("commitment", 32),
        key=fields.data("key", 32),
        signature=fields.data("signature", SIGNATURE_BYTES),
    )
    fields.done()
    return commitment


def _bytes(value: Any, party: str, size: int | None = None) -> bytes:
    return Fields({"body": value}, what="ceremony word", party=party).data("body", size, maximum=max(_MAX_SHARE, HYBRID_PUBLIC_BYTES))
