"""Who is guilty, rule by rule: of a lie its liar, of a complaint that does not hold its maker, and of what nobody signed nobody."""

import dataclasses
from typing import Any

import pytest
from tests.support import ceremonies

from veilpod.core.ceremony import derive
from veilpod.core.ceremony.evidence import BadShare, FalseReveal, WrongKey, complain, judge, parse_evidence
from veilpod.core.ceremony.member import Progress, hear
from veilpod.core.ceremony.words import Commitment, Confirmation, Post, Reveal, body_digest, parse_post, verify_word
from veilpod.core.ids import ServerIndex
from veilpod.core.sealing import HybridPrivateKey
from veilpod.errors import ProtocolViolation

CEREMONY, KEYS = ceremonies.ceremony(3), ceremonies.keys(3)
MEMBERS = ceremonies.members(CEREMONY, KEYS)
POSTS, GROUP = ceremonies.play(MEMBERS)
OTHERS, _ = ceremonies.play(ceremonies.members(CEREMONY, KEYS, seed=b"other"))  # the same members with other secrets
BROKEN = ceremonies.broken_share(POSTS[1][1], KEYS[1], victim=0)
REVEALS: tuple[Any, ...] = tuple(post.word for post in POSTS[1])
SHARES = tuple(post.bodies[0] for post in POSTS[1])  # for server 0
CONFIRMED: Any = POSTS[2][1].word
WRONG = dataclasses.replace(CONFIRMED, key=KEYS[1].address).signed(KEYS[1])
FALSELY: Any = dataclasses.replace(
    REVEALS[1], seen=(dataclasses.replace(REVEALS[1].seen[0], commitment=bytes(32)), *REVEALS[1].seen[1:])
).signed(KEYS[1])
# Another key in the complainer's place: its share cannot be opened by anybody who is asked to.
MISLAID: Any = dataclasses.replace(REVEALS[1], seen=(dataclasses.replace(REVEALS[1].seen[0], key=bytes(32)), *REVEALS[1].seen[1:])).signed(
    KEYS[1]
)
# The ceremony as server 1 saw it while servers 0 and 2 showed it another commit of server 2.
VIEW, _ = ceremonies.play([*MEMBERS[:2], ceremonies.member(CEREMONY, 2, KEYS[2], seed=b"other")])
SEALED_OTHERWISE = derive.seal_share(
    bytes(32),
    MEMBERS[0].key.public_bytes,
    ceremony=CEREMONY,
    commitments=derive.set_digest(CEREMONY, REVEALS[1].seen),
    sender=ServerIndex(1),
    reader=ServerIndex(0),
)
OTHERWISE: Any = dataclasses.replace(REVEALS[1], shares=(body_digest(SEALED_OTHERWISE), *REVEALS[1].shares[1:])).signed(KEYS[1])


def bad_share(post: Post = BROKEN, **changes: Any) -> BadShare:
    assert isinstance(post.word, Reveal)
    complaint = BadShare(by=ServerIndex(0), reveal=post.word, share=post.bodies[0], key=MEMBERS[0].key.to_bytes())
    return complain(dataclasses.replace(complaint, **changes), KEYS[0])


def wrong_key(confirmation: Confirmation = WRONG, **changes: Any) -> WrongKey:
    complaint = WrongKey(by=ServerIndex(0), confirmation=confirmation, reveals=REVEALS, shares=SHARES, key=MEMBERS[0].key.to_bytes())
    return complain(dataclasses.replace(complaint, **changes), KEYS[0])


GUILTY = {
    "a share that does not open": (bad_share(), 1),
    "a share of other bytes than were committed to": (bad_share(reveal=OTHERWISE, share=SEALED_OTHERWISE), 1),
    "a share of a reveal that quotes another key for its reader": (bad_share(reveal=MISLAID, share=SHARES[1]), 1),
    "a share of a reveal that quotes falsely": (bad_share(reveal=FALSELY, share=SHARES[1]), 1),
    "a key that does not follow": (wrong_key(), 1),
    "commitments that were not": (wrong_key(dataclasses.replace(CONFIRMED, commitments=bytes(32)).signed(KEYS[1])), 1),
    "a false quote": (FalseReveal(reveal=FALSELY), 1),
    # What does not hold convicts who complained.
    "a share that opens": (bad_share(POSTS[1][1]), 0),
    "another share than was named": (bad_share(POSTS[1][1], share=BROKEN.bodies[0]), 0),
    "another key than was committed to": (bad_share(POSTS[1][1], key=HybridPrivateKey.generate().to_bytes()), 0),
    "a broken share under another key": (bad_share(key=HybridPrivateKey.generate().to_bytes()), 0),
    "a key that does follow": (wrong_key(CONFIRMED), 0),
    "a share too few": (wrong_key(shares=SHARES[:2]), 0),
    "a reveal too few": (wrong_key(reveals=REVEALS[:2]), 0),
    "reveals of some, twice": (wrong_key(reveals=(REVEALS[0], REVEALS[1], REVEALS[1]), shares=(SHARES[0], SHARES[1], SHARES[1])), 0),
    "a broken share among all": (
        wrong_key(reveals=(REVEALS[0], BROKEN.word, REVEALS[2]), shares=(SHARES[0], BROKEN.bodies[0], SHARES[2])),
        0,
    ),
    "reveals that quote different commits": (wrong_key(CONFIRMED, reveals=(REVEALS[0], OTHERS[1][1].word, REVEALS[2])), 0),
    "an honest confirmation of what its member was shown": (
        wrong_key(VIEW[2][1].word, reveals=(REVEALS[0], VIEW[1][1].word, REVEALS[2]), shares=(SHARES[0], VIEW[1][1].bodies[0], SHARES[2])),
        0,
    ),
    "a reveal that quotes falsely among all": (wrong_key(CONFIRMED, reveals=(REVEALS[0], FALSELY, REVEALS[2])), 0),
}


@pytest.mark.parametrize(("evidence", "guilty"), GUILTY.values(), ids=GUILTY.keys())
def test_the_guilty_one_is_found_by_anybody_who_has_only_the_evidence(evidence: Any, guilty: int) -> None:
    assert judge(CEREMONY, parse_evidence(evidence.document())) == guilty


UNSIGNED = dataclasses.replace(REVEALS[1], shares=REVEALS[1].shares[::-1])
NOBODY = {
    "a complaint in another's name": dataclasses.replace(bad_share(), by=ServerIndex(2)),
    "a complaint of a stranger": bad_share(by=ServerIndex(5)),
    "a complaint that was altered": dataclasses.replace(bad_share(), share=SHARES[1]),
    "a reveal that nobody signed": bad_share(reveal=UNSIGNED, share=SHARES[1]),
    "a false quote that nobody signed": FalseReveal(reveal=dataclasses.replace(FALSELY, shares=FALSELY.shares[::-1])),
    "a confirmation that nobody signed": wrong_key(dataclasses.replace(CONFIRMED, key=KEYS[1].address)),
    "one reveal of all that nobody signed": wrong_key(CONFIRMED, reveals=(REVEALS[0], UNSIGNED, REVEALS[2])),
    "a rightful quote": FalseReveal(reveal=REVEALS[1]),
}


@pytest.mark.parametrize("evidence", NOBODY.values(), ids=NOBODY.keys())
def test_what_a_member_did_not_sign_convicts_nobody(evidence: Any) -> None:
    with pytest.raises(ProtocolViolation):
        judge(CEREMONY, parse_evidence(evidence.document()))


def heard(stage: int, *words: Any) -> Any:
    """What server 0 makes of these words, after an honest ceremony up to there."""
    progress: Any = Progress()
    for posts in POSTS[:stage]:
        progress = hear(MEMBERS[0], progress, [post.to(ServerIndex(0)) for post in posts])
    posts = [dataclasses.replace(post, word=word) for post, word in zip(POSTS[stage], words, strict=True)]
    return hear(MEMBERS[0], progress, [post.to(ServerIndex(0)) for post in posts])


def test_a_quote_with_a_signature_that_its_owner_did_not_give_is_a_lie_though_its_words_are_true() -> None:
    # Else the reveal could not be shown as evidence of anything: its quotes would prove nothing.
    mute = dataclasses.replace(REVEALS[1].seen[2], signature=REVEALS[1].seen[0].signature)
    lie = dataclasses.replace(REVEALS[1], seen=(*REVEALS[1].seen[:2], mute)).signed(KEYS[1])
    evidence = heard(1, REVEALS[0], lie, REVEALS[2])
    assert isinstance(evidence, FalseReveal)
    assert judge(CEREMONY, evidence) == 1


@pytest.mark.parametrize("lie", [WRONG, dataclasses.replace(CONFIRMED, commitments=bytes(32)).signed(KEYS[1])], ids=["key", "commitments"])
def test_who_confirms_anything_else_than_what_followed_is_accused(lie: Confirmation) -> None:
    evidence = heard(2, POSTS[2][0].word, lie, POSTS[2][2].word)
    assert isinstance(evidence, WrongKey)
    assert judge(CEREMONY, evidence) == 1


@pytest.mark.parametrize("stage", range(3), ids=["commit", "reveal", "confirm"])
def test_a_word_that_its_member_did_not_sign_is_not_heard(stage: int) -> None:
    words = [post.word for post in POSTS[stage]]
    words[1] = words[1].signed(KEYS[2])
    with pytest.raises(ProtocolViolation) as refused:
        heard(stage, *words)
    assert (refused.value.reason, refused.value.party) == ("WordRefused", "mailbox")


def test_a_word_has_what_it_names_for_every_member_and_no_more() -> None:
    document = POSTS[1][0].document()
    for bodies in (document["bodies"][:2], [*document["bodies"], "0x00"]):
        with pytest.raises(ProtocolViolation):
            parse_post(document | {"bodies": bodies})
    for short in (
        dataclasses.replace(REVEALS[0], seen=REVEALS[0].seen[:2]),
        dataclasses.replace(REVEALS[0], shares=REVEALS[0].shares[:2]),
    ):
        with pytest.raises(ProtocolViolation):
            verify_word(CEREMONY, short.signed(KEYS[0]))


def test_a_stranger_is_no_member() -> None:
    word = POSTS[0][0].word
    assert isinstance(word, Commitment)
    with pytest.raises(ProtocolViolation) as refused:
        verify_word(CEREMONY, dataclasses.replace(word, index=ServerIndex(3)).signed(KEYS[0]))
    assert refused.value.reason == "WordRefused"
