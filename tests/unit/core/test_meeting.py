import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import sandboxes

from veilpod.core.canonical import canonical, parse_canonical
from veilpod.core.ids import NodeId, ServerIndex
from veilpod.core.keys import checksum_address
from veilpod.core.meeting import (
    Acceptance,
    Descriptor,
    ForPeer,
    ForStore,
    ResultPiece,
    descriptors_document,
    make_note,
    open_descriptor,
    parse_acceptance,
    parse_descriptors,
    parse_note,
    parse_offer,
    parse_result_piece,
    seal_descriptor,
    verify_acceptance,
    verify_note,
    verify_offer,
    verify_result,
)
from veilpod.core.result import result_hash_of_digest
from veilpod.core.typed_data import Domain, result_digest, sandbox_key_digest, statements_hash
from veilpod.errors import ProtocolViolation

TASK = sandboxes.TASK
KEYS = [sandboxes.keys(1), sandboxes.keys(2)]
OFFERS = [sandboxes.offer(k, index=i) for i, k in enumerate(KEYS)]
DIGESTS = [offer.statement.digest for offer in OFFERS]
DOMAIN = Domain(chain_id=31337, contract=checksum_address(b"\x0c" * 20))
KEY = KEYS[0].signing.address
DESCRIPTOR = Descriptor(relay=NodeId(7), cookie=b"c" * 20, service_key=b"s" * 32, expires=1_800_000_000, sender=ServerIndex(0))
SEALED = [
    seal_descriptor(DESCRIPTOR, task=TASK, to=ForPeer(index=ServerIndex(1)), reader_key=KEYS[1].onion.public_key().public_bytes_raw()),
    seal_descriptor(DESCRIPTOR, task=TASK, to=ForStore(node=NodeId(9)), reader_key=KEYS[0].onion.public_key().public_bytes_raw()),
]
ACCEPTANCE = Acceptance(
    task=TASK,
    index=ServerIndex(0),
    signature=KEYS[0].server.sign(sandbox_key_digest(DOMAIN, TASK, key=KEY, statements_hash=statements_hash(DIGESTS))),
    descriptors=tuple(SEALED),
)
NOTE = make_note(task=TASK, index=ServerIndex(0), event="Failed", code="PeerLost", time=1_790_000_000, key=KEYS[0].signing)
RESULT_SIGNATURE = KEYS[0].signing.sign(result_digest(DOMAIN, TASK, result_hash=result_hash_of_digest(TASK, b"\x01" * 32)))
PIECE = ResultPiece(task=TASK, offset=0, total=4, digest=b"\x01" * 32, signature=RESULT_SIGNATURE, author=RESULT_SIGNATURE, chunk=b"abcd")


def check_offer(value: Any) -> None:
    verify_offer(parse_offer(value), task=TASK, index=ServerIndex(0), owner=KEYS[0].server.address)


def check_acceptance(value: Any) -> None:
    acceptance = parse_acceptance(value)
    if acceptance.task != TASK or acceptance.index != 0:
        raise ProtocolViolation("NotAsked", "the mailbox looks these up")
    verify_acceptance(acceptance, domain=DOMAIN, key=KEY, statements=DIGESTS, owner=KEYS[0].server.address)
    open_descriptor(acceptance.descriptors[0], KEYS[1].onion, task=TASK)
    open_descriptor(acceptance.descriptors[1], KEYS[0].onion, task=TASK)
    if [d.to for d in acceptance.descriptors] != [d.to for d in SEALED]:
        raise ProtocolViolation("NotAddressed", "its reader cannot open it")


def check_note(value: Any) -> None:
    verify_note(parse_note(value), KEY)


DOCUMENTS: list[tuple[dict[str, Any], Callable[[Any], None]]] = [
    (OFFERS[0].document(), check_offer),
    (ACCEPTANCE.document(), check_acceptance),
    (NOTE.document(), check_note),
]


@pytest.mark.parametrize(("document", "check"), DOCUMENTS, ids=["offer", "acceptance", "note"])
def test_a_document_survives_the_wire(document: dict[str, Any], check: Callable[[Any], None]) -> None:
    check(json.loads(canonical(document)))


@pytest.mark.parametrize(("document", "check"), DOCUMENTS, ids=["offer", "acceptance", "note"])
@given(data=st.data())
def test_no_byte_of_a_document_can_be_altered(document: dict[str, Any], check: Callable[[Any], None], data: st.DataObject) -> None:
    wire = bytearray(canonical(document))
    wire[data.draw(st.integers(0, len(wire) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ProtocolViolation):
        check(parse_canonical(bytes(wire)))


def test_an_offer_of_another_server_in_our_place_is_refused() -> None:
    with pytest.raises(ProtocolViolation):
        verify_offer(OFFERS[1], task=TASK, index=ServerIndex(0), owner=KEYS[0].server.address)
    with pytest.raises(ProtocolViolation):
        verify_offer(OFFERS[0], task=TASK, index=ServerIndex(0), owner=KEYS[1].server.address)


def test_an_acceptance_is_of_one_key_and_one_set_of_statements() -> None:
    for key, statements in [(KEYS[1].signing.address, DIGESTS), (KEY, DIGESTS[::-1]), (KEY, DIGESTS[:1])]:
        with pytest.raises(ProtocolViolation):
            verify_acceptance(ACCEPTANCE, domain=DOMAIN, key=key, statements=statements, owner=KEYS[0].server.address)


def test_descriptors_on_chain_are_read_by_those_they_are_sealed_to_and_nobody_else() -> None:
    published = parse_descriptors(descriptors_document([ACCEPTANCE]))
    assert published == ACCEPTANCE.descriptors
    assert open_descriptor(published[0], KEYS[1].onion, task=TASK) == DESCRIPTOR
    with pytest.raises(ProtocolViolation):
        open_descriptor(published[0], KEYS[0].onion, task=TASK)


@pytest.mark.parametrize(
    "change",
    [{"event": "Rumour"}, {"code": "free text"}, {"event": "Computed"}, {"time": -1}, {"time": 1.5}, {"index": 16}],
    ids=lambda change: str(change),
)
def test_a_note_says_nothing_outside_its_vocabulary(change: dict[str, Any]) -> None:
    with pytest.raises(ProtocolViolation):
        parse_note({**NOTE.document(), **change})


@pytest.mark.parametrize(
    "change", [{"offset": 1}, {"total": 3}, {"chunk": "0x"}, {"total": 2_000_000}, {"offset": -1}], ids=lambda change: str(change)
)
def test_a_piece_lies_within_its_result(change: dict[str, Any]) -> None:
    assert parse_result_piece(PIECE.document(), maximum=1_000_000) == PIECE
    with pytest.raises(ProtocolViolation):
        parse_result_piece({**PIECE.document(), **change}, maximum=1_000_000)


def test_a_result_is_signed_by_the_task_key_for_this_task() -> None:
    good = result_hash_of_digest(TASK, PIECE.digest)
    verify_result(domain=DOMAIN, task=TASK, result_hash=good, signature=PIECE.signature, key=KEY)
    with pytest.raises(ProtocolViolation):
        verify_result(domain=DOMAIN, task=TASK, result_hash=b"\x02" * 32, signature=PIECE.signature, key=KEY)
    with pytest.raises(ProtocolViolation):
        verify_result(domain=DOMAIN, task=TASK, result_hash=good, signature=PIECE.signature, key=KEYS[1].signing.address)
