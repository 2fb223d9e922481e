"""Who broke the ceremony, so that anybody can see it who knows the statements: nothing here rests on the word of a messenger.

    Equivocation   a member signed two different words of one stage
    FalseReveal    a member signed a commitment as seen that its owner never signed
    BadShare       a member's share does not open to its commitment
    WrongKey       a member confirmed another key than follows from all shares

The last two are complaints: the complainer opens its ceremony key, a key of this dead attempt and no other, and signs the complaint. A
complaint that does not hold convicts who signed it.
"""

import dataclasses
from typing import Any, TypeVar

from veilpod.core.canonical import tagged_digest, to_hex
from veilpod.core.ceremony import derive
from veilpod.core.ceremony.words import (
    MAX_MEMBERS,
    Ceremony,
    Commitment,
    Confirmation,
    Reveal,
    Word,
    body_digest,
    holds,
    parse_word,
    verify_word,
)
from veilpod.core.fields import Fields
from veilpod.core.ids import ServerIndex
from veilpod.core.keys import SIGNATURE_BYTES, SigningKey, recover
from veilpod.core.sealing import HybridPrivateKey
from veilpod.errors import ProtocolViolation

COMPLAINT_TAG = "veilpod.ceremony.complaint.v1"
_KEY_BYTES = 96
_MAX_SHARE = 2048


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Equivocation:
    """Two words of one member and stage that differ."""

    first: Word
    second: Word

    def document(self) -> dict[str, Any]:
        """The args of `put-evidence`."""
        return {"kind": "Equivocation", "first": self.first.document(), "second": self.second.document()}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FalseReveal:
    """A reveal that quotes a commitment which is not signed by its owner."""

    reveal: Reveal

    def document(self) -> dict[str, Any]:
        """The args of `put-evidence`."""
        return {"kind": "FalseReveal", "reveal": self.reveal.document()}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class BadShare:
    """`by` opens its ceremony key to show what the share for it holds."""

    by: ServerIndex
    reveal: Reveal
    share: bytes
    key: bytes  # the complainer's ceremony key, 96 bytes
    signature: bytes = b""

    def document(self) -> dict[str, Any]:
        """The args of `put-evidence`."""
        return {**self.signed_part(), "signature": to_hex(self.signature)}

    def signed_part(self) -> dict[str, Any]:
        """What the complainer signs."""
        said = {"kind": "BadShare", "by": int(self.by), "reveal": self.reveal.document()}
        return {**said, "share": to_hex(self.share), "key": to_hex(self.key)}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class WrongKey:
    """`by` opens its ceremony key to show all shares, and so the key that should have been confirmed."""

    by: ServerIndex
    confirmation: Confirmation
    reveals: tuple[Reveal, ...]
    shares: tuple[bytes, ...]  # of the complainer, by sender
    key: bytes
    signature: bytes = b""

    def document(self) -> dict[str, Any]:
        """The args of `put-evidence`."""
        return {**self.signed_part(), "signature": to_hex(self.signature)}

    def signed_part(self) -> dict[str, Any]:
        """What the complainer signs."""
        return {
            "kind": "WrongKey",
            "by": int(self.by),
            "confirmation": self.confirmation.document(),
            "reveals": [reveal.document() for reveal in self.reveals],
            "shares": [to_hex(share) for share in self.shares],
            "key": to_hex(self.key),
        }


Evidence = Equivocation | FalseReveal | BadShare | WrongKey
_Complaint = TypeVar("_Complaint", BadShare, WrongKey)


def complain(complaint: _Complaint, key: SigningKey) -> _Complaint:
    """Sign a complaint with the complainer's sandbox key."""
    return dataclasses.replace(complaint, signature=key.sign(_complaint_digest(complaint)))


def judge(ceremony: Ceremony, evidence: Evidence) -> ServerIndex:
    """Who is guilty. Raises ProtocolViolation("NothingProved") for what convicts nobody."""
    match evidence:
        case Equivocation(first=first, second=second):
            _genuine(ceremony, first, second)
            if (first.stage, first.index) != (second.stage, second.index) or first.digest == second.digest:
                raise _nothing("two words that one member may well have said")
            return first.index
        case FalseReveal(reveal=reveal):
            _genuine(ceremony, reveal)
            if _quotes_rightly(ceremony, reveal):
                raise _nothing("a reveal that quotes what was said")
            return reveal.index
        case BadShare():
            return _judge_share(ceremony, evidence)
        case WrongKey():
            return _judge_key(ceremony, evidence)


def parse_evidence(value: Any, *, party: str = "agent") -> Evidence:
    """Read evidence. Raises ProtocolViolation."""
    fields = Fields(value, what="evidence", party=party)
    kind = fields.choice("kind", frozenset({"Equivocation", "FalseReveal", "BadShare", "WrongKey"}))
    evidence: Evidence
    if kind == "Equivocation":
        evidence = Equivocation(first=parse_word(fields.take("first"), party=party), second=parse_word(fields.take("second"), party=party))
    elif kind == "FalseReveal":
        evidence = FalseReveal(reveal=_reveal(fields.take("reveal"), fields, party))
    elif kind == "BadShare":
        evidence = BadShare(
            by=_member(fields),
            reveal=_reveal(fields.take("reveal"), fields, party),
            share=fields.data("share", maximum=_MAX_SHARE),
            key=fields.data("key", _KEY_BYTES),
            signature=fields.data("signature", SIGNATURE_BYTES),
        )
    else:
        evidence = _parse_wrong_key(fields, party)
    fields.done()
    return evidence


def _parse_wrong_key(fields: Fields, party: str) -> WrongKey:
    confirmation = parse_word(fields.take("confirmation"), party=party)
    if not isinstance(confirmation, Confirmation):
        raise fields.violation("has no confirmation")
    shares = fields.items("shares", maximum=MAX_MEMBERS)
    return WrongKey(
        by=_member(fields),
        confirmation=confirmation,
        reveals=tuple(_reveal(item, fields, party) for item in fields.items("reveals", maximum=MAX_MEMBERS)),
        shares=tuple(Fields({"share": item}, what="evidence", party=party).data("share", maximum=_MAX_SHARE) for item in shares),
        key=fields.data("key", _KEY_BYTES),
        signature=fields.data("signature", SIGNATURE_BYTES),
    )


def _judge_share(ceremony: Ceremony, complaint: BadShare) -> ServerIndex:
    reveal, by = complaint.reveal, complaint.by
    _signed_by(ceremony, complaint)
    _genuine(ceremony, reveal)
    if not _quotes_rightly(ceremony, reveal):
        return reveal.index
    opened = _opened(ceremony, HybridPrivateKey.from_bytes(complaint.key), reveal, complaint.share, by)
    # What the complainer could have got wrong convicts it; only then is the share itself looked at.
    return by if opened is None or opened else reveal.index


def _judge_key(ceremony: Ceremony, complaint: WrongKey) -> ServerIndex:
    reveals, confirmation, by = complaint.reveals, complaint.confirmation, complaint.by
    _signed_by(ceremony, complaint)
    _genuine(ceremony, confirmation, *reveals)
    count = len(ceremony.signers)
    if not len(reveals) == len(complaint.shares) == count or [reveal.index for reveal in reveals] != list(range(count)):
        return by
    if not all(_quotes_rightly(ceremony, reveal) for reveal in reveals) or len({_content(reveal.seen) for reveal in reveals}) != 1:
        return by  # an honest member would have shown that, and not this
    key = HybridPrivateKey.from_bytes(complaint.key)
    contributions = []
    for reveal, share in zip(reveals, complaint.shares, strict=True):
        opened = _opened(ceremony, key, reveal, share, by)
        if not opened:
            return by
        contributions.append(opened)
    commitments = derive.set_digest(ceremony, reveals[0].seen)
    right = (commitments, derive.group_key(commitments, contributions).address)
    return by if (confirmation.commitments, confirmation.key) == right else confirmation.index


def _opened(ceremony: Ceremony, key: HybridPrivateKey, reveal: Reveal, share: bytes, reader: ServerIndex) -> bytes | None:
    """What a share holds, b"" when it breaks its sender's commitment, None when key or share is not the one that was signed for."""
    if not derive.is_key_of(key, reveal.seen[reader]) or body_digest(share) != reveal.shares[reader]:
        return None
    try:
        return derive.open_share(share, key, ceremony=ceremony, seen=reveal.seen, sender=reveal.index, reader=reader)
    except ProtocolViolation:
        return b""


def _genuine(ceremony: Ceremony, *words: Word) -> None:
    for word in words:
        verify_word(ceremony, word)


def _quotes_rightly(ceremony: Ceremony, reveal: Reveal) -> bool:
    return all(holds(ceremony, commitment) for commitment in reveal.seen)


def _content(seen: tuple[Commitment, ...]) -> tuple[bytes, ...]:
    return tuple(commitment.digest for commitment in seen)


def _signed_by(ceremony: Ceremony, complaint: BadShare | WrongKey) -> None:
    if complaint.by >= len(ceremony.signers):
        raise _nothing("a complaint of a stranger")
    if recover(_complaint_digest(complaint), complaint.signature) != ceremony.signers[complaint.by]:
        raise _nothing("a complaint that its sandbox did not sign")


def _complaint_digest(complaint: BadShare | WrongKey) -> bytes:
    return tagged_digest(COMPLAINT_TAG, complaint.signed_part())


def _nothing(why: str) -> ProtocolViolation:
    return ProtocolViolation("NothingProved", why, party="agent")


def _member(fields: Fields) -> ServerIndex:
    return ServerIndex(fields.integer("by", maximum=MAX_MEMBERS - 1))


def _reveal(value: Any, fields: Fields, party: str) -> Reveal:
    word = parse_word(value, party=party)
    if not isinstance(word, Reveal):
        raise fields.violation("has no reveal")
    return word
