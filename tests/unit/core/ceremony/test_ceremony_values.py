"""The words of the ceremony and its arithmetic, rule by rule."""

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import ceremonies
from tests.vectors import make_ceremony

from veilpod.core.canonical import canonical, parse_canonical
from veilpod.core.ceremony import derive
from veilpod.core.ceremony.evidence import Equivocation, judge, parse_evidence
from veilpod.core.ceremony.member import Progress, hear, speak
from veilpod.core.ceremony.words import Ceremony, confirmed_key, parse_post, parse_received, verify_word
from veilpod.core.ids import ServerIndex, TaskId
from veilpod.errors import ProtocolViolation

CEREMONY, KEYS = ceremonies.ceremony(3), ceremonies.keys(3)
MEMBERS = ceremonies.members(CEREMONY, KEYS)
POSTS, GROUP = ceremonies.play(MEMBERS)
STAGES = ["commit", "reveal", "confirm"]


def check_post(value: Any) -> None:
    verify_word(CEREMONY, parse_post(value).word)


def test_the_vectors_are_what_the_code_makes() -> None:
    document = json.loads(make_ceremony.PATH.read_text())
    assert {name: document[name] for name in make_ceremony.vectors()} == make_ceremony.vectors()
    assert make_ceremony.replayed(document) == document["groupAddress"]


@pytest.mark.parametrize("stage", range(3), ids=STAGES)
def test_a_word_survives_the_wire(stage: int) -> None:
    for post in POSTS[stage]:
        assert parse_post(parse_canonical(canonical(post.document()))) == post


@pytest.mark.parametrize("stage", range(3), ids=STAGES)
@given(data=st.data())
@settings(max_examples=60)
def test_no_byte_of_a_word_or_of_what_travels_with_it_can_be_altered(stage: int, data: st.DataObject) -> None:
    wire = bytearray(canonical(POSTS[stage][0].document()))
    wire[data.draw(st.integers(0, len(wire) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ProtocolViolation):
        check_post(parse_canonical(bytes(wire)))


@pytest.mark.parametrize("stage", range(3), ids=STAGES)
@pytest.mark.parametrize(
    "other",
    [
        ceremonies.ceremony(3, task=TaskId(b"\x33" * 32)),
        ceremonies.ceremony(3, statements=b"\x44" * 32),
        dataclasses.replace(CEREMONY, signers=CEREMONY.signers[::-1]),
    ],
    ids=["task", "statements", "signers"],
)
def test_a_word_of_one_ceremony_is_none_of_another(stage: int, other: Ceremony) -> None:
    with pytest.raises(ProtocolViolation) as refused:
        verify_word(other, POSTS[stage][0].word)
    assert refused.value.reason == "WordRefused"


def test_a_ceremony_key_that_nothing_can_be_sealed_to_is_refused() -> None:
    key = MEMBERS[0].key.public_bytes
    for useless in (key[:1184] + bytes(32), b"\xff" * 1184 + key[1184:]):
        own = dataclasses.replace(POSTS[0][0].word, key=derive.body_digest(useless))  # type: ignore[call-arg]
        with pytest.raises(ProtocolViolation):
            parse_post({"word": own.signed(KEYS[0]).document(), "bodies": ["0x" + useless.hex()]})


def test_a_share_is_for_one_reader_and_names_itself_in_the_word() -> None:
    reveal = POSTS[1][0]
    mine = reveal.to(ServerIndex(1)).document()
    assert parse_received(mine, ServerIndex(1)).body == reveal.bodies[1]
    with pytest.raises(ProtocolViolation):
        parse_received(mine, ServerIndex(2))


@given(at=st.integers(0, 2), flip=st.integers(0, 255))
@settings(max_examples=40)
def test_no_subset_decides_the_key_whatever_one_member_keeps_to_itself_changes_it(at: int, flip: int) -> None:
    # The commitments stand still: the others know all of them and everything but one member's 32 bytes.
    contributions = [one.contribution for one in MEMBERS]
    commitments = derive.set_digest(CEREMONY, POSTS[1][0].word.seen)  # type: ignore[union-attr]
    assert derive.group_key(commitments, contributions) == GROUP
    changed = bytearray(contributions[at])
    changed[flip // 8] ^= 1 << flip % 8
    contributions[at] = bytes(changed)
    assert derive.group_key(commitments, contributions) != GROUP
    assert derive.commit(CEREMONY, ServerIndex(at), bytes(changed)) != derive.commit(CEREMONY, ServerIndex(at), MEMBERS[at].contribution)


def test_a_copied_commitment_is_another_ones_bytes_at_another_index() -> None:
    same = MEMBERS[0].contribution
    assert derive.commit(CEREMONY, ServerIndex(0), same) != derive.commit(CEREMONY, ServerIndex(1), same)


@pytest.mark.parametrize("stage", range(3), ids=STAGES)
def test_two_different_words_of_one_stage_convict_and_two_equal_ones_do_not(stage: int) -> None:
    twice = [ceremonies.play(ceremonies.members(CEREMONY, KEYS, seed=seed))[0][stage][2].word for seed in (b"", b"again")]
    proof = Equivocation(first=twice[0], second=twice[1])
    assert judge(CEREMONY, parse_evidence(proof.document())) == 2
    for nothing in (Equivocation(first=twice[0], second=twice[0]), Equivocation(first=twice[0], second=POSTS[stage][1].word)):
        with pytest.raises(ProtocolViolation) as refused:
            judge(CEREMONY, nothing)
        assert refused.value.reason == "NothingProved"


def test_words_that_are_not_all_there_or_not_in_order_are_the_messengers_doing() -> None:
    received = [post.to(ServerIndex(0)) for post in POSTS[0]]
    for shown in (received[:2], received[::-1], [post.to(ServerIndex(0)) for post in POSTS[1]]):
        with pytest.raises(ProtocolViolation) as refused:
            hear(MEMBERS[0], Progress(), shown)
        assert refused.value.party == "mailbox"


def test_a_key_counts_when_every_sandbox_confirmed_it() -> None:
    confirmations = [post.word for post in POSTS[2]]
    assert confirmed_key(CEREMONY, confirmations) == GROUP.address  # type: ignore[arg-type]
    other = dataclasses.replace(confirmations[1], key=KEYS[1].address).signed(KEYS[1])  # type: ignore[call-arg]
    for refused in (confirmations[:2], confirmations[::-1], [confirmations[0], other, confirmations[2]]):
        with pytest.raises(ProtocolViolation):
            confirmed_key(CEREMONY, refused)  # type: ignore[arg-type]


def test_one_server_alone_makes_its_key_by_the_same_words() -> None:
    alone = ceremonies.ceremony(1)
    posts, group = ceremonies.play(ceremonies.members(alone, ceremonies.keys(1)))
    assert [len(stage) for stage in posts] == [1, 1, 1]
    assert group.address != ceremonies.keys(1)[0].address


def test_a_word_is_said_once_a_repeated_reveal_would_be_another_one() -> None:
    progress = hear(MEMBERS[0], Progress(), [post.to(ServerIndex(0)) for post in POSTS[0]])
    assert isinstance(progress, Progress)
    first, second = speak(MEMBERS[0], progress).word, speak(MEMBERS[0], progress).word
    assert judge(CEREMONY, Equivocation(first=first, second=second)) == 0
