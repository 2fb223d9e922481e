"""What the mailbox does with the words of a key ceremony and with accusations."""

import asyncio
import dataclasses
import pathlib

import pytest
from tests.support import ceremonies, mailboxes
from tests.support.mailboxes import CEREMONY, GROUP, KEYS, OFFERS, POSTS, TASK, TERMS

from veilpod.core.canonical import to_hex
from veilpod.core.ceremony.evidence import Equivocation, FalseReveal
from veilpod.core.ceremony.words import Reveal
from veilpod.errors import ProtocolViolation, Refused
from veilpod.store.mailbox import Mailbox

OTHERS, _ = ceremonies.play(ceremonies.members(CEREMONY, [k.signing for k in KEYS], seed=b"other"))


async def opened(directory: pathlib.Path, told: list[tuple[str, int]] | None = None) -> Mailbox:
    mailbox = Mailbox(directory, changed=lambda task, what, index: told.append((what, index)) if told is not None else None)
    mailbox.announce(TERMS)
    for offer in OFFERS:
        await mailbox.put_offer(offer.document())
    return mailbox


async def say(mailbox: Mailbox, stage: int) -> list[dict[str, object]]:
    return await asyncio.gather(*(mailbox.put_ceremony(post.document()) for post in POSTS[stage]))


async def test_a_word_is_answered_with_everybodys_as_soon_as_the_last_is_here(tmp_path: pathlib.Path) -> None:
    mailbox = await opened(tmp_path)
    first = asyncio.create_task(mailbox.put_ceremony(POSTS[0][0].document()))
    await asyncio.sleep(0)
    assert not first.done()
    last = await mailbox.put_ceremony(POSTS[0][1].document())
    assert await first == last
    assert (last["missing"], len(last["words"])) == ([], 2)


async def test_the_ceremony_goes_on_after_a_restart(tmp_path: pathlib.Path) -> None:
    await say(await opened(tmp_path), 0)
    mailbox = Mailbox(tmp_path)
    await say(mailbox, 1)
    mailbox = Mailbox(tmp_path)
    assert mailbox.ceremony(TASK).stage == "confirm"
    await say(mailbox, 2)
    report = Mailbox(tmp_path).ceremony(TASK)
    assert {word.key for word in report.confirmations} == {GROUP.address}
    assert (report.stage, report.missing, report.evidence) == ("done", (), ())


async def test_words_come_in_their_order_and_after_all_offers(tmp_path: pathlib.Path) -> None:
    mailbox = Mailbox(tmp_path)
    mailbox.announce(TERMS)
    await mailbox.put_offer(OFFERS[0].document())
    with pytest.raises(Refused) as early:
        await mailbox.put_ceremony(POSTS[0][0].document())
    assert early.value.reason == "OffersMissing"
    await mailbox.put_offer(OFFERS[1].document())
    with pytest.raises(Refused) as skipped:
        await mailbox.put_ceremony(POSTS[1][0].document())
    assert skipped.value.reason == "TooEarly"


async def test_a_word_that_its_sandbox_did_not_sign_is_refused(tmp_path: pathlib.Path) -> None:
    mailbox = await opened(tmp_path)
    forged = dataclasses.replace(POSTS[0][0], word=POSTS[0][0].word.signed(KEYS[1].signing))
    with pytest.raises(ProtocolViolation):
        await mailbox.put_ceremony(forged.document())


async def test_a_second_word_that_differs_is_kept_as_evidence_and_ends_the_waiting(tmp_path: pathlib.Path) -> None:
    told: list[tuple[str, int]] = []
    mailbox = await opened(tmp_path, told)
    waiting = asyncio.create_task(mailbox.put_ceremony(POSTS[0][0].document()))
    await asyncio.sleep(0.01)
    answer = await mailbox.put_ceremony(OTHERS[0][0].document())
    proof = Equivocation(first=POSTS[0][0].word, second=OTHERS[0][0].word)
    assert answer["evidence"] == (await waiting)["evidence"] == [proof.document()]
    assert Mailbox(tmp_path).ceremony(TASK).evidence == (proof,)
    assert told[-1] == ("evidence", 0)


async def test_a_repeated_word_is_no_equivocation(tmp_path: pathlib.Path) -> None:
    mailbox = await opened(tmp_path)
    await say(mailbox, 0)
    await say(mailbox, 0)
    assert mailbox.ceremony(TASK).evidence == ()


async def test_an_accusation_that_proves_nothing_is_not_kept(tmp_path: pathlib.Path) -> None:
    mailbox = await opened(tmp_path)
    reveal = POSTS[1][0].word
    assert isinstance(reveal, Reveal)
    with pytest.raises(ProtocolViolation) as refused:
        await mailbox.put_evidence({"taskId": to_hex(TASK), "evidence": FalseReveal(reveal=reveal).document()})
    assert refused.value.reason == "NothingProved"
    assert mailbox.ceremony(TASK).evidence == ()


async def test_an_acceptance_of_another_key_than_the_sandboxes_is_refused(tmp_path: pathlib.Path) -> None:
    mailbox = await opened(tmp_path)
    for stage in range(3):
        await say(mailbox, stage)
    await mailbox.put_acceptance(mailboxes.acceptance(0).document())
    other = dataclasses.replace(mailboxes.acceptance(1), signature=KEYS[1].server.sign(b"\x01" * 32))
    with pytest.raises(ProtocolViolation) as refused:
        await mailbox.put_acceptance(other.document())
    assert refused.value.reason == "AcceptanceRefused"
