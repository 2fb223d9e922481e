"""The ceremony among honest and adversarial members, over a mailbox that shows each what it likes of what was signed.

Rules are moves of single members, in any order: to say the word of a stage, to look at the board, to slander somebody. What must hold: who
is honest is never judged guilty; who lies to somebody is named by whom it lied to; all honest members who finish hold the same key.
"""

import dataclasses
import os

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.support import ceremonies

from veilpod.core.ceremony import derive
from veilpod.core.ceremony.evidence import BadShare, Equivocation, Evidence, FalseReveal, WrongKey, complain, judge, parse_evidence
from veilpod.core.ceremony.member import Member, Progress, hear, speak
from veilpod.core.ceremony.words import (
    Commitment,
    Confirmation,
    Post,
    Received,
    Reveal,
    Stage,
    body_digest,
    parse_post,
    parse_received,
    verify_word,
)
from veilpod.core.ids import ServerIndex, TaskId
from veilpod.errors import ProtocolViolation

LIES = ("bad share", "copier", "two faces", "false quote", "wrong key", "silent", "replay")
SLANDERS = ("true share", "other share", "other key", "key")


@dataclasses.dataclass(slots=True)
class Face:
    """What a member shows to some readers. Only who is two-faced has two."""

    member: Member
    readers: frozenset[int]
    progress: Progress = dataclasses.field(default_factory=Progress)
    evidence: Evidence | None = None
    said: dict[Stage, Post] = dataclasses.field(default_factory=dict)


class CeremonyMachine(RuleBasedStateMachine):
    @initialize(data=st.data(), count=st.sampled_from([2, 2, 3, 3, 4, 5, 8, 16]))
    def begin(self, data: st.DataObject, count: int) -> None:
        self.count, self.keys = count, ceremonies.keys(count)
        self.ceremony = ceremonies.ceremony(count)
        lies = data.draw(st.lists(st.sampled_from(LIES), max_size=min(count - 1, 4)))
        self.kinds = list(data.draw(st.permutations(["honest"] * (count - len(lies)) + lies)))
        self.honest = {index for index, kind in enumerate(self.kinds) if kind == "honest"}
        self.victim = data.draw(st.sampled_from(sorted(self.honest)))
        everybody = frozenset(range(count))
        self.faces: list[list[Face]] = []
        for index, kind in enumerate(self.kinds):
            readers = [everybody]
            if kind == "two faces":
                some = frozenset(data.draw(st.sets(st.integers(0, count - 1))))
                readers = [some, everybody - some]
            members = [ceremonies.member(self.ceremony, index, self.keys[index], seed=bytes([at])) for at in range(len(readers))]
            self.faces.append([Face(member, which) for member, which in zip(members, readers, strict=True)])

    # -- moves

    @rule(number=st.integers(0, 15))
    def say(self, number: int) -> None:
        index = number % self.count
        for face in self.faces[index]:
            stage = face.progress.stage
            if stage is None or stage in face.said or face.evidence or self.kinds[index] == "silent":
                continue
            post = self._twisted(index, stage, speak(face.member, face.progress))
            try:
                verify_word(self.ceremony, post.word)
            except ProtocolViolation:
                assert self.kinds[index] == "replay"
                continue
            face.said[stage] = parse_post(post.document())

    @rule(number=st.integers(0, 15))
    def look(self, number: int) -> None:
        index = number % self.count
        for face in self.faces[index]:
            stage = face.progress.stage
            shown = self._shown(index, face) if stage else None
            if stage is None or shown is None or stage not in face.said or face.evidence:
                continue
            outcome = hear(face.member, face.progress, shown)
            if isinstance(outcome, Progress):
                assert index not in self.honest or not self._lied_to(index, stage, shown)
                face.progress = outcome
            else:
                face.evidence = parse_evidence(outcome.document())

    @rule(number=st.integers(0, 15), other=st.integers(0, 15), how=st.sampled_from(SLANDERS))
    def slander(self, number: int, other: int, how: str) -> None:
        """A complaint against an honest member convicts its maker, whoever that is."""
        by, accused = number % self.count, other % self.count
        if by != accused and accused in self.honest:
            self._slander(by, accused, how)

    def _slander(self, by: int, accused: int, how: str) -> None:
        face, theirs = self.faces[by][0], self.faces[accused][0].said
        reveal, confirmation = theirs.get(Stage.REVEAL), theirs.get(Stage.CONFIRM)
        key = os.urandom(96) if how == "other key" else face.member.key.to_bytes()
        if how == "key" and confirmation is not None and face.progress.reveals:
            assert isinstance(confirmation.word, Confirmation)
            complaint: BadShare | WrongKey = WrongKey(
                by=ServerIndex(by), confirmation=confirmation.word, reveals=face.progress.reveals, shares=face.progress.shares, key=key
            )
        elif how != "key" and reveal is not None:
            assert isinstance(reveal.word, Reveal)
            share = os.urandom(1168) if how == "other share" else reveal.bodies[by]
            complaint = BadShare(by=ServerIndex(by), reveal=reveal.word, share=share, key=key)
        else:
            return
        assert judge(self.ceremony, complain(complaint, self.keys[by])) == by
        with pytest.raises(ProtocolViolation):
            judge(self.ceremony, complain(dataclasses.replace(complaint, by=ServerIndex(accused)), self.keys[by]))

    # -- what must hold

    @invariant()
    def who_is_honest_is_never_guilty(self) -> None:
        for index in getattr(self, "honest", ()):
            found = self.faces[index][0].evidence
            if found is not None:
                assert judge(self.ceremony, found) not in self.honest

    @invariant()
    def who_finishes_honestly_holds_the_same_key(self) -> None:
        if hasattr(self, "honest"):
            done = [face.progress.group for index in self.honest for face in self.faces[index] if face.progress.stage is None]
            assert len({group.address for group in done if group}) <= 1

    def teardown(self) -> None:
        """At the end of every ceremony: it is over, or somebody who is not honest is to blame for it."""
        if not hasattr(self, "honest"):
            return
        for _ in Stage:
            for index in range(self.count):
                self.say(index)
            for index in range(self.count):
                self.look(index)
        self.who_is_honest_is_never_guilty()
        self.who_finishes_honestly_holds_the_same_key()
        for how in SLANDERS:
            self._slander((self.victim + 1) % self.count, self.victim, how)
        stopped = {index for index in self.honest if self.faces[index][0].evidence}
        for index in self.honest - stopped:
            stage = self.faces[index][0].progress.stage
            if stage is not None:
                missing = {other for other in range(self.count) if self._post(other, index, stage) is None}
                assert stopped or missing - self.honest
        if self.honest == set(range(self.count)):
            assert all(faces[0].progress.stage is None for faces in self.faces)

    # -- the mailbox and the lies

    def _post(self, sender: int, reader: int, stage: Stage) -> Post | None:
        return next((face.said.get(stage) for face in self.faces[sender] if reader in face.readers), None)

    def _shown(self, reader: int, face: Face) -> list[Received] | None:
        assert face.progress.stage
        posts = [self._post(sender, reader, face.progress.stage) for sender in range(self.count)]
        posts[reader] = face.said.get(face.progress.stage)  # each face sees itself
        if any(post is None for post in posts):
            return None
        return [parse_received(post.to(ServerIndex(reader)).document(), ServerIndex(reader)) for post in posts if post]

    def _lied_to(self, reader: int, stage: Stage, shown: list[Received]) -> bool:
        if stage is Stage.COMMIT:
            return False
        words = [item.word for item in shown]
        if stage is Stage.CONFIRM:
            return any(kind == "wrong key" for kind in self.kinds)
        seen = [word.seen for word in words if isinstance(word, Reveal)]
        return (
            any(kind in ("copier", "false quote") for kind in self.kinds)
            or (reader == self.victim and "bad share" in self.kinds)
            or len({tuple(one.digest for one in quoted) for quoted in seen}) > 1
        )

    def _twisted(self, index: int, stage: Stage, post: Post) -> Post:
        kind, key, word = self.kinds[index], self.keys[index], post.word
        if kind == "bad share" and isinstance(word, Reveal):
            share = derive.seal_share(
                bytes(32),
                self.faces[index][0].progress.keys[self.victim],
                ceremony=self.ceremony,
                commitments=derive.set_digest(self.ceremony, word.seen),
                sender=ServerIndex(index),
                reader=ServerIndex(self.victim),
            )
            bodies = tuple(share if at == self.victim else body for at, body in enumerate(post.bodies))
            lie = dataclasses.replace(word, shares=tuple(map(body_digest, bodies)))
            return Post(word=lie.signed(key), bodies=bodies)
        if kind == "copier" and isinstance(word, Commitment):
            # Somebody else's commitment; without one to copy, one that nobody can open.
            others = [self._post(other, index, stage) for other in range(self.count) if other != index]
            copied = next((other.word.commitment for other in others if other and isinstance(other.word, Commitment)), bytes(32))
            return dataclasses.replace(post, word=dataclasses.replace(word, commitment=copied).signed(key))
        if kind == "false quote" and isinstance(word, Reveal):
            quoted = tuple(dataclasses.replace(one, commitment=bytes(32)) if at == self.victim else one for at, one in enumerate(word.seen))
            return dataclasses.replace(post, word=dataclasses.replace(word, seen=quoted).signed(key))
        if kind == "wrong key" and isinstance(word, Confirmation):
            return dataclasses.replace(post, word=dataclasses.replace(word, key=key.address).signed(key))
        if kind == "replay":
            return dataclasses.replace(post, word=dataclasses.replace(word, task=TaskId(b"\x77" * 32)).signed(key))
        return post


TestCeremony = CeremonyMachine.TestCase
TestCeremony.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)


def test_evidence_of_each_kind_is_reached_by_the_lies_above() -> None:
    """The machine is not blind: each lie on its own leads to evidence of its kind, and it names the liar."""
    expected: dict[str, type[Evidence]] = {
        "bad share": BadShare,
        "copier": BadShare,
        "two faces": Equivocation,
        "false quote": FalseReveal,
        "wrong key": WrongKey,
    }
    for kind, proof in expected.items():
        machine = CeremonyMachine()
        machine.count, machine.keys, machine.ceremony = 3, ceremonies.keys(3), ceremonies.ceremony(3)
        machine.kinds, machine.honest, machine.victim = ["honest", kind, "honest"], {0, 2}, 2
        readers = [frozenset({0, 1}), frozenset({2})] if kind == "two faces" else [frozenset(range(3))]
        everybody = frozenset(range(3))
        machine.faces = [
            [
                Face(ceremonies.member(machine.ceremony, index, machine.keys[index], seed=bytes([at])), which)
                for at, which in enumerate(readers if index == 1 else [everybody])
            ]
            for index in range(3)
        ]
        machine.teardown()
        found = machine.faces[2][0].evidence
        assert type(found) is proof, kind
        assert judge(machine.ceremony, found) == 1
