import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import sandboxes

from veilpod.core.canonical import canonical, parse_canonical
from veilpod.core.ids import ServerIndex
from veilpod.core.receipt import ZERO_HEAD, Transcript, fold, fold_one, parse_receipt
from veilpod.errors import ProtocolViolation

KEYS = sandboxes.keys()
START = Transcript(task=sandboxes.TASK, link=(ServerIndex(0), ServerIndex(1)), direction=0)
batches = st.lists(st.tuples(st.integers(1, 2**40), st.binary(min_size=32, max_size=32)), min_size=1, max_size=6)


@given(batches)
def test_a_chain_of_receipts_is_accepted_in_order_and_counts_every_byte(sizes: list[tuple[int, bytes]]) -> None:
    mine = theirs = START
    receipts = []
    for size, digest in sizes:
        mine, receipt = mine.append(size, digest, KEYS.signing)
        receipts.append(parse_receipt(json.loads(canonical(receipt.document()))))
        theirs = theirs.accept(receipts[-1], KEYS.signing.address)
    assert mine == theirs
    assert theirs.total == sum(size for size, _ in sizes)
    assert theirs.head == fold(ZERO_HEAD, receipts)


@given(batches, st.data())
def test_a_receipt_cannot_be_left_out_repeated_or_moved(sizes: list[tuple[int, bytes]], data: st.DataObject) -> None:
    mine, chain = START, []
    for size, digest in sizes:
        mine, receipt = mine.append(size, digest, KEYS.signing)
        chain.append(receipt)
    position = data.draw(st.integers(0, len(chain)))
    theirs = START
    for receipt in chain[:position]:
        theirs = theirs.accept(receipt, KEYS.signing.address)
    for number, receipt in enumerate(chain):
        if number != position:
            with pytest.raises(ProtocolViolation):
                theirs.accept(receipt, KEYS.signing.address)


RECEIPT = START.append(1000, b"\x01" * 32, KEYS.signing)[1]
WIRE = canonical(RECEIPT.document())


@given(position=st.integers(0, len(WIRE) - 1), mask=st.integers(1, 255))
def test_no_byte_of_a_receipt_can_be_altered(position: int, mask: int) -> None:
    altered = bytearray(WIRE)
    altered[position] ^= mask
    with pytest.raises(ProtocolViolation):
        START.accept(parse_receipt(parse_canonical(bytes(altered))), KEYS.signing.address)


def test_a_signed_receipt_whose_head_does_not_follow_is_refused() -> None:
    lie = dataclasses.replace(RECEIPT, head=fold_one(ZERO_HEAD, 0, 1, RECEIPT.digest))
    lie = dataclasses.replace(lie, signature=KEYS.signing.sign(lie.signed_digest))
    with pytest.raises(ProtocolViolation):
        START.accept(lie, KEYS.signing.address)


def test_only_the_receiving_sandbox_attests() -> None:
    with pytest.raises(ProtocolViolation):
        START.accept(RECEIPT, sandboxes.keys(2).signing.address)
