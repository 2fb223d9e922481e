import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import sandboxes

from veilpod.core.canonical import canonical, parse_canonical
from veilpod.core.grant import Grant, make_grant, open_grant, parse_grant, verify_grant
from veilpod.core.ids import ResourceId, TaskId
from veilpod.core.keys import SigningKey
from veilpod.errors import ProtocolViolation

KEYS = sandboxes.keys()
STATEMENT = sandboxes.statement(KEYS)
OWNER = SigningKey(secret=b"\x21" * 32)
RESOURCE = ResourceId(b"\x31" * 32)
OBJECT = b"\x41" * 32
DATA_KEY = b"\x51" * 32
GRANT = make_grant(DATA_KEY, statement=STATEMENT, resource=RESOURCE, digest=OBJECT, signer=OWNER)
WIRE = canonical(GRANT.document())


def verify(grant: Grant) -> None:
    verify_grant(grant, statement=STATEMENT, resource=RESOURCE, digest=OBJECT, signers={OWNER.address})


def test_a_grant_survives_the_wire_and_opens_in_the_sandbox_it_names() -> None:
    grant = parse_grant(json.loads(WIRE))
    verify(grant)
    assert open_grant(grant, KEYS.encryption) == DATA_KEY


@given(position=st.integers(0, len(WIRE) - 1), mask=st.integers(1, 255))
def test_no_byte_of_a_grant_can_be_altered(position: int, mask: int) -> None:
    altered = bytearray(WIRE)
    altered[position] ^= mask
    with pytest.raises(ProtocolViolation):
        verify(parse_grant(parse_canonical(bytes(altered))))


@pytest.mark.parametrize(
    "change",
    [{"task": TaskId(b"\x12" * 32)}, {"statement": b"\x13" * 32}, {"digest": b"\x14" * 32}, {"resource": ResourceId(b"\x15" * 32)}],
    ids=["another task", "another sandbox", "another object", "another resource"],
)
def test_a_grant_for_something_else_is_refused_even_when_signed(change: dict[str, bytes]) -> None:
    moved = dataclasses.replace(GRANT, **change)  # type: ignore[arg-type]
    moved = dataclasses.replace(moved, signature=OWNER.sign(moved.signed_digest))
    with pytest.raises(ProtocolViolation) as refused:
        verify(moved)
    assert refused.value.reason == "InputRefused"
    if moved.resource == RESOURCE:  # the resource is bound by the signature, all else by the seal as well
        with pytest.raises(ProtocolViolation):
            open_grant(moved, KEYS.encryption)


def test_only_the_owner_or_the_custodian_may_grant() -> None:
    thief = SigningKey(secret=b"\x22" * 32)
    with pytest.raises(ProtocolViolation):
        verify(make_grant(DATA_KEY, statement=STATEMENT, resource=RESOURCE, digest=OBJECT, signer=thief))
    claimed = dataclasses.replace(GRANT, signature=thief.sign(GRANT.signed_digest))
    with pytest.raises(ProtocolViolation):
        verify(claimed)


def test_another_sandbox_cannot_open_it() -> None:
    with pytest.raises(ProtocolViolation):
        open_grant(GRANT, sandboxes.keys(2).encryption)
