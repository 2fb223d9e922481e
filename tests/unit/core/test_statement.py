import copy
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import sandboxes

from veilpod.core.canonical import canonical, parse_canonical
from veilpod.core.ids import PodUid
from veilpod.core.keys import SigningKey
from veilpod.core.statement import (
    countersign,
    parse_statement,
    sign_statement,
    statement_nonce,
    verify_countersignature,
    verify_statement,
)
from veilpod.errors import ProtocolViolation

KEYS = sandboxes.keys()
STATEMENT = sandboxes.statement(KEYS)
SIGNATURE = sign_statement(STATEMENT, KEYS.signing)
WIRE = canonical(STATEMENT.document())

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


def test_a_statement_survives_the_wire_and_its_signatures_verify() -> None:
    parsed = parse_statement(json.loads(WIRE))
    assert parsed == STATEMENT
    verify_statement(parsed, SIGNATURE)
    verify_countersignature(parsed, countersign(STATEMENT, KEYS.server), KEYS.server.address)


@given(position=st.integers(0, len(WIRE) - 1), mask=st.integers(1, 255))
def test_no_byte_of_a_statement_can_be_altered(position: int, mask: int) -> None:
    altered = bytearray(WIRE)
    altered[position] ^= mask
    with pytest.raises(ProtocolViolation):
        verify_statement(parse_statement(parse_canonical(bytes(altered))), SIGNATURE)


@given(position=st.integers(0, 64), mask=st.integers(1, 255))
def test_no_byte_of_its_signature_can_be_altered(position: int, mask: int) -> None:
    altered = bytearray(SIGNATURE)
    altered[position] ^= mask
    with pytest.raises(ProtocolViolation):
        verify_statement(STATEMENT, bytes(altered))


@given(field=st.sampled_from(sorted(STATEMENT.document())), value=json_values)
def test_a_field_of_another_type_or_size_is_refused_or_is_another_statement(field: str, value: Any) -> None:
    document = copy.deepcopy(STATEMENT.document())
    if document[field] == value:
        return
    document[field] = value
    try:
        parsed = parse_statement(document)
    except ProtocolViolation:
        return
    assert parsed.digest != STATEMENT.digest
    with pytest.raises(ProtocolViolation):
        verify_statement(parsed, SIGNATURE)


@given(field=st.sampled_from(sorted(STATEMENT.document())))
def test_a_missing_or_an_additional_field_is_refused(field: str) -> None:
    document = STATEMENT.document()
    del document[field]
    with pytest.raises(ProtocolViolation):
        parse_statement(document)
    with pytest.raises(ProtocolViolation):
        parse_statement({**STATEMENT.document(), field + "x": 1})


def test_a_sandbox_whose_isolation_nobody_observed_has_no_statement() -> None:
    with pytest.raises(ProtocolViolation):
        parse_statement({**STATEMENT.document(), "netguard": {"allowed": 1, "blocked": 0}})


def test_capitals_in_hex_are_another_spelling_and_refused() -> None:
    document = STATEMENT.document()
    with pytest.raises(ProtocolViolation):
        parse_statement({**document, "signingKey": "0x" + document["signingKey"][2:].upper()})


def test_a_stranger_cannot_vouch_for_a_sandbox() -> None:
    stranger = SigningKey(secret=b"\x55" * 32)
    with pytest.raises(ProtocolViolation):
        verify_countersignature(STATEMENT, countersign(STATEMENT, stranger), KEYS.server.address)
    with pytest.raises(ValueError):
        sign_statement(STATEMENT, stranger)


def test_the_report_data_is_the_sha384_of_what_is_signed() -> None:
    assert STATEMENT.report_data == hashlib.sha384(WIRE).digest()


@given(st.text(min_size=1, max_size=40), st.integers(0, 2**31), st.text(min_size=1, max_size=40), st.integers(0, 2**31))
def test_a_nonce_is_of_one_pod_and_one_incarnation(uid: str, incarnation: int, other_uid: str, other: int) -> None:
    server = KEYS.server.address
    one = statement_nonce(task=sandboxes.TASK, pod_uid=PodUid(uid), incarnation=incarnation, server=server)
    two = statement_nonce(task=sandboxes.TASK, pod_uid=PodUid(other_uid), incarnation=other, server=server)
    assert (one == two) == ((uid, incarnation) == (other_uid, other))
