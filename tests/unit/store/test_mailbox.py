"""The mailbox keeps what its task's sandboxes signed, once, and across a restart."""

import asyncio
import dataclasses
import os
import pathlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import mailboxes, sandboxes
from tests.support.mailboxes import KEYS, OFFERS, POSTS, TASK, TERMS

from veilpod.core.ids import Address, ServerIndex, TaskId
from veilpod.core.meeting import Offer, sign_author
from veilpod.core.statement import countersign, sign_statement
from veilpod.errors import ProtocolViolation, Refused
from veilpod.store.mailbox import RESULT_OVERHEAD, Mailbox

SEALED = bytes(range(256)) * 10


def announced(directory: pathlib.Path) -> Mailbox:
    mailbox = Mailbox(directory)
    mailbox.announce(TERMS)
    return mailbox


async def with_offers(directory: pathlib.Path) -> Mailbox:
    mailbox = announced(directory)
    for offer in OFFERS:
        await mailbox.put_offer(offer.document())
    return mailbox


async def with_key(directory: pathlib.Path) -> Mailbox:
    mailbox = await with_offers(directory)
    await hold_ceremony(mailbox)
    return mailbox


async def hold_ceremony(mailbox: Mailbox) -> None:
    for stage in POSTS:
        await asyncio.gather(*(mailbox.put_ceremony(post.document()) for post in stage))


def reborn(index: int, incarnation: int) -> Offer:
    keys = sandboxes.keys(50 + incarnation)
    statement = dataclasses.replace(sandboxes.statement(keys, index=index), incarnation=incarnation)
    return Offer(
        statement=statement,
        signature=sign_statement(statement, keys.signing),
        server_signature=countersign(statement, KEYS[index].server),
    )


async def test_everything_is_there_again_after_a_restart(tmp_path: pathlib.Path) -> None:
    mailbox = await with_key(tmp_path)
    for index in (1, 0):
        await mailbox.put_acceptance(mailboxes.acceptance(index).document())
        await mailbox.put_note(mailboxes.note(index).document())
    for piece in mailboxes.pieces(SEALED):
        await mailbox.put_result(piece.document())

    again = Mailbox(tmp_path)
    assert again.tasks() == [TASK]
    assert again.offers(TASK) == OFFERS
    assert [a.index for a in again.acceptances(TASK)] == [0, 1]
    assert [n.event for n in again.notes(TASK)] == ["Computed", "Computed"]
    assert again.result(TASK) is not None
    assert b"".join([piece async for piece in again.result_pieces(TASK)]) == SEALED


async def test_a_repeated_write_is_fine_and_another_one_is_refused(tmp_path: pathlib.Path) -> None:
    mailbox = await with_key(tmp_path)
    await mailbox.put_offer(OFFERS[0].document())
    with pytest.raises(Refused, match="made its offer"):
        await mailbox.put_offer(reborn(0, 2).document())

    first = mailboxes.acceptance(0)
    await mailbox.put_acceptance(first.document())
    await mailbox.put_acceptance(first.document())
    with pytest.raises(Refused, match="accepted"):
        await mailbox.put_acceptance(mailboxes.acceptance(0, marker=b"d").document())

    await mailbox.put_note(mailboxes.note(0).document())
    await mailbox.put_note(mailboxes.note(0).document())
    with pytest.raises(Refused, match="told of"):
        await mailbox.put_note(mailboxes.note(0, time=1_790_000_001).document())
    assert len(mailbox.notes(TASK)) == 1


async def test_a_reborn_sandbox_replaces_its_offer_until_all_offers_are_there(tmp_path: pathlib.Path) -> None:
    mailbox = announced(tmp_path)
    await mailbox.put_offer(OFFERS[0].document())
    await mailbox.put_offer(reborn(0, 2).document())
    assert [offer.statement.incarnation for offer in mailbox.offers(TASK)] == [2]
    with pytest.raises(Refused):
        await mailbox.put_offer(OFFERS[0].document())
    await mailbox.put_offer(OFFERS[1].document())
    with pytest.raises(Refused):
        await mailbox.put_offer(reborn(0, 3).document())


async def test_a_task_that_was_not_announced_has_no_box(tmp_path: pathlib.Path) -> None:
    mailbox = Mailbox(tmp_path)
    with pytest.raises(Refused) as refused:
        await mailbox.put_offer(OFFERS[0].document())
    assert refused.value.reason == "UnknownTask"
    with pytest.raises(Refused):
        mailbox.result(TaskId(b"\x22" * 32))


async def test_only_the_assigned_servers_offer_is_kept(tmp_path: pathlib.Path) -> None:
    mailbox = Mailbox(tmp_path)
    stranger = Address(sandboxes.keys(9).server.address)
    mailbox.announce(dataclasses.replace(TERMS, owners=(stranger, stranger)))
    with pytest.raises(ProtocolViolation) as refused:
        await mailbox.put_offer(OFFERS[0].document())
    assert refused.value.reason == "StatementRefused"
    assert mailbox.offers(TASK) == []


async def test_an_index_that_the_task_does_not_have_is_refused(tmp_path: pathlib.Path) -> None:
    mailbox = Mailbox(tmp_path)
    mailbox.announce(dataclasses.replace(TERMS, owners=TERMS.owners[:1]))
    with pytest.raises(ProtocolViolation):
        await mailbox.put_offer(OFFERS[1].document())


async def test_nobody_accepts_before_all_offers_are_there(tmp_path: pathlib.Path) -> None:
    mailbox = announced(tmp_path)
    await mailbox.put_offer(OFFERS[0].document())
    with pytest.raises(Refused) as refused:
        await mailbox.put_acceptance(mailboxes.acceptance(0).document())
    assert refused.value.reason == "OffersMissing"


async def test_an_acceptance_by_another_server_is_refused(tmp_path: pathlib.Path) -> None:
    mailbox = await with_key(tmp_path)
    forged = dataclasses.replace(mailboxes.acceptance(0), index=ServerIndex(1))
    with pytest.raises(ProtocolViolation) as refused:
        await mailbox.put_acceptance(forged.document())
    assert refused.value.reason == "AcceptanceRefused"


async def test_a_note_by_another_sandbox_is_refused(tmp_path: pathlib.Path) -> None:
    mailbox = await with_key(tmp_path)
    forged = dataclasses.replace(mailboxes.note(0), index=ServerIndex(1))
    with pytest.raises(ProtocolViolation):
        await mailbox.put_note(forged.document())


@settings(deadline=None, max_examples=20)
@given(sizes=st.integers(1, 3000), seed=st.integers(0, 1 << 32))
async def test_a_result_is_whole_however_its_pieces_are_repeated(tmp_path_factory: pytest.TempPathFactory, sizes: int, seed: int) -> None:
    mailbox = await with_key(tmp_path_factory.mktemp("box"))
    dice = random.Random(seed)
    todo = mailboxes.pieces(SEALED, size=sizes)
    for at, piece in enumerate(todo):
        answer = await mailbox.put_result(piece.document())
        again = await mailbox.put_result(todo[dice.randint(0, at)].document())
        assert again == answer
    assert answer == {"have": len(SEALED), "complete": True}
    assert b"".join([piece async for piece in mailbox.result_pieces(TASK)]) == SEALED


async def test_a_result_goes_on_where_a_restart_cut_it(tmp_path: pathlib.Path) -> None:
    mailbox = await with_key(tmp_path)
    first, second, third = mailboxes.pieces(SEALED)
    await mailbox.put_result(first.document())
    mailbox = Mailbox(tmp_path)
    assert mailbox.result(TASK) is None
    with pytest.raises(Refused) as refused:
        await mailbox.put_result(third.document())
    assert refused.value.reason == "Gap"
    await mailbox.put_result(second.document())
    assert (await mailbox.put_result(third.document()))["complete"]


async def test_bytes_that_are_not_the_signed_result_are_dropped_and_can_be_sent_again(tmp_path: pathlib.Path) -> None:
    mailbox = await with_key(tmp_path)
    good = mailboxes.pieces(SEALED, size=len(SEALED))[0]
    bad = dataclasses.replace(good, chunk=b"\xff" + good.chunk[1:])
    with pytest.raises(ProtocolViolation) as refused:
        await mailbox.put_result(bad.document())
    assert refused.value.reason == "DigestMismatch"
    assert mailbox.result(TASK) is None
    assert (await mailbox.put_result(good.document()))["complete"]


async def test_a_second_result_is_refused(tmp_path: pathlib.Path) -> None:
    mailbox = await with_key(tmp_path)
    await mailbox.put_result(mailboxes.pieces(SEALED)[0].document())
    with pytest.raises(Refused, match="another result"):
        await mailbox.put_result(mailboxes.pieces(b"other")[0].document())


async def test_a_result_that_the_task_key_did_not_sign_is_refused(tmp_path: pathlib.Path) -> None:
    mailbox = await with_key(tmp_path)
    piece = mailboxes.pieces(SEALED)[0]
    forged = dataclasses.replace(piece, signature=KEYS[1].signing.sign(b"\x01" * 32))
    with pytest.raises(ProtocolViolation) as refused:
        await mailbox.put_result(forged.document())
    assert refused.value.reason == "ResultRefused"


async def test_a_result_is_of_the_sandbox_that_was_to_make_it(tmp_path: pathlib.Path) -> None:
    # Every sandbox holds the task key: the other one could sign whatever it likes with it.
    mailbox = await with_key(tmp_path)
    piece = mailboxes.pieces(SEALED)[0]
    forged = dataclasses.replace(piece, author=sign_author(TASK, piece.digest, KEYS[1].signing))
    with pytest.raises(ProtocolViolation) as refused:
        await mailbox.put_result(forged.document())
    assert refused.value.reason == "ResultRefused"


async def test_nobody_accepts_before_the_key_is_made(tmp_path: pathlib.Path) -> None:
    mailbox = await with_offers(tmp_path)
    with pytest.raises(Refused) as refused:
        await mailbox.put_acceptance(mailboxes.acceptance(0).document())
    assert refused.value.reason == "KeyMissing"


async def test_a_result_larger_than_the_task_allows_is_refused(tmp_path: pathlib.Path) -> None:
    mailbox = await with_key(tmp_path)
    piece = dataclasses.replace(mailboxes.pieces(SEALED)[0], total=TERMS.max_size + RESULT_OVERHEAD + 1)
    with pytest.raises(ProtocolViolation):
        await mailbox.put_result(piece.document())


async def test_a_forgotten_task_leaves_nothing_on_disk(tmp_path: pathlib.Path) -> None:
    mailbox = await with_key(tmp_path)
    await mailbox.forget(TASK)
    await mailbox.forget(TASK)
    assert mailbox.tasks() == []
    assert os.listdir(tmp_path) == []


async def test_announcing_again_keeps_the_box_and_other_terms_are_refused(tmp_path: pathlib.Path) -> None:
    mailbox = await with_key(tmp_path)
    mailbox.announce(TERMS)
    assert len(mailbox.offers(TASK)) == 2
    with pytest.raises(Refused) as refused:
        mailbox.announce(dataclasses.replace(TERMS, max_size=5))
    assert refused.value.reason == "TermsDiffer"


async def test_the_operator_is_told_of_each_new_document_once(tmp_path: pathlib.Path) -> None:
    told: list[tuple[str, int]] = []
    mailbox = Mailbox(tmp_path, changed=lambda task, what, index: told.append((what, index)))
    mailbox.announce(TERMS)
    for offer in [*OFFERS, *OFFERS]:
        await mailbox.put_offer(offer.document())
    await hold_ceremony(mailbox)
    for piece in mailboxes.pieces(SEALED) * 2:
        await mailbox.put_result(piece.document())
    assert told == [("offer", 0), ("offer", 1), ("result", 0)]


def test_a_directory_without_terms_is_no_box(tmp_path: pathlib.Path) -> None:
    (tmp_path / "ab").mkdir()
    assert Mailbox(tmp_path).tasks() == []
