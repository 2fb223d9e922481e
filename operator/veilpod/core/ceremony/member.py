"""One sandbox's part in the ceremony: what it says next, and what it makes of what the others said.

    progress -> speak -> (everybody's words) -> hear -> progress | evidence          three times, then the key is there

Pure: the random bytes and the ceremony key come in from outside, and `speak` is asked once for each stage (sealing is randomised, and who
posts two different words of one stage has equivocated).
"""

import dataclasses
from collections.abc import Sequence
from typing import cast

from veilpod.core.ceremony import derive
from veilpod.core.ceremony.evidence import BadShare, Equivocation, Evidence, FalseReveal, WrongKey, complain
from veilpod.core.ceremony.words import (
    Ceremony,
    Commitment,
    Confirmation,
    Post,
    Received,
    Reveal,
    Stage,
    body_digest,
    holds,
    verify_word,
)
from veilpod.core.ids import ServerIndex
from veilpod.core.keys import SigningKey
from veilpod.core.sealing import HybridPrivateKey
from veilpod.errors import ProtocolViolation


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Member:
    """Who takes part, with its secrets. `contribution` (32 random bytes) and `key` are made for one ceremony and never used again."""

    ceremony: Ceremony
    index: ServerIndex
    signing: SigningKey
    contribution: bytes
    key: HybridPrivateKey


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Progress:
    """How far a member has come: the `stage` it is in (None: the key is made), and what it holds fast."""

    stage: Stage | None = Stage.COMMIT
    seen: tuple[Commitment, ...] = ()  # every commitment, from the second stage on
    keys: tuple[bytes, ...] = ()  # every ceremony key
    reveals: tuple[Reveal, ...] = ()
    shares: tuple[bytes, ...] = ()  # those for this member, by sender
    group: SigningKey | None = None


def speak(member: Member, progress: Progress) -> Post:
    """Say this stage's word."""
    ceremony, index = member.ceremony, member.index
    task, statements = ceremony.task, ceremony.statements
    if progress.stage is Stage.COMMIT:
        public = member.key.public_bytes
        commitment = derive.commit(ceremony, index, member.contribution)
        word = Commitment(task=task, statements=statements, index=index, commitment=commitment, key=body_digest(public))
        return Post(word=word.signed(member.signing), bodies=(public,))
    commitments = derive.set_digest(ceremony, progress.seen)
    if progress.stage is Stage.REVEAL:
        shares = tuple(
            derive.seal_share(
                member.contribution, key, ceremony=ceremony, commitments=commitments, sender=index, reader=ServerIndex(reader)
            )
            for reader, key in enumerate(progress.keys)
        )
        digests = tuple(body_digest(share) for share in shares)
        reveal = Reveal(task=task, statements=statements, index=index, seen=progress.seen, shares=digests)
        return Post(word=reveal.signed(member.signing), bodies=shares)
    assert progress.group is not None
    confirmation = Confirmation(task=task, statements=statements, index=index, commitments=commitments, key=progress.group.address)
    return Post(word=confirmation.signed(member.signing))


def hear(member: Member, progress: Progress, received: Sequence[Received]) -> Progress | Evidence:
    """Go on, or show who lied. `received`: everybody's words of this stage by index, parsed for this member.

    Raises ProtocolViolation("WordRefused") for what nobody signed: the messenger's doing.
    """
    words = [item.word for item in received]
    if [word.index for word in words] != list(range(len(member.ceremony.signers))) or any(
        word.stage is not progress.stage for word in words
    ):
        raise ProtocolViolation("WordRefused", "the mailbox shows other words than those of this stage", party="mailbox")
    for word in words:
        verify_word(member.ceremony, word, party="mailbox")
    bodies = tuple(item.body for item in received)
    if progress.stage is Stage.COMMIT:
        seen = cast(list[Commitment], words)
        if seen[member.index].key != body_digest(member.key.public_bytes):
            raise ProtocolViolation("WordRefused", "the mailbox shows another commitment than ours", party="mailbox")
        return dataclasses.replace(progress, stage=Stage.REVEAL, seen=tuple(seen), keys=bodies)
    if progress.stage is Stage.REVEAL:
        return _open(member, progress, tuple(cast(list[Reveal], words)), bodies)
    return _confirmed(member, progress, cast(list[Confirmation], words))


def _open(member: Member, progress: Progress, reveals: tuple[Reveal, ...], shares: tuple[bytes, ...]) -> Progress | Evidence:
    # Before anything is opened: did all see what we saw? A share that was sealed for another set of commitments could not be judged.
    for reveal in reveals:
        for ours, theirs in zip(progress.seen, reveal.seen, strict=True):
            if theirs == ours:
                continue
            if not holds(member.ceremony, theirs):
                return FalseReveal(reveal=reveal)
            if theirs.digest != ours.digest:
                return Equivocation(first=ours, second=theirs)
    contributions = []
    for reveal, share in zip(reveals, shares, strict=True):
        try:
            opened = derive.open_share(
                share, member.key, ceremony=member.ceremony, seen=progress.seen, sender=reveal.index, reader=member.index
            )
        except ProtocolViolation:
            complaint = BadShare(by=member.index, reveal=reveal, share=share, key=member.key.to_bytes())
            return complain(complaint, member.signing)
        contributions.append(opened)
    group = derive.group_key(derive.set_digest(member.ceremony, progress.seen), contributions)
    return dataclasses.replace(progress, stage=Stage.CONFIRM, reveals=reveals, shares=shares, group=group)


def _confirmed(member: Member, progress: Progress, confirmations: Sequence[Confirmation]) -> Progress | Evidence:
    assert progress.group is not None
    right = (derive.set_digest(member.ceremony, progress.seen), progress.group.address)
    for confirmation in confirmations:
        if (confirmation.commitments, confirmation.key) != right:
            complaint = WrongKey(
                by=member.index,
                confirmation=confirmation,
                reveals=progress.reveals,
                shares=progress.shares,
                key=member.key.to_bytes(),
            )
            return complain(complaint, member.signing)
    return dataclasses.replace(progress, stage=None)
