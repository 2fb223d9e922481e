"""What goes to a watchtower and what comes back: one spelling, one signer, nothing for anywhere else."""

import dataclasses

import pytest
from eth_account.messages import encode_typed_data
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import towers
from tests.support.channels import DOMAIN, KEYS, TERMS, A, B

from veilpod.core import typed_data
from veilpod.core.canonical import keccak256
from veilpod.core.channel.machine import Party
from veilpod.core.channel.state import ChannelState
from veilpod.core.guard import Guarded, Place, make_receipt, parse_receipt, parse_request, request_document
from veilpod.core.ids import ChannelId
from veilpod.core.keys import SigningKey
from veilpod.errors import ProtocolViolation

TOWER = SigningKey(secret=b"\x07" * 32)
PAIR = towers.pair(DOMAIN, *KEYS.values(), terms=TERMS)
balances = st.integers(0, 2**79)
states = st.builds(
    ChannelState, version=st.integers(0, 2**56 - 1), balance_a=balances, balance_b=balances, data_hash=st.binary(min_size=32, max_size=32)
)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 2**56 - 1), st.binary(min_size=32, max_size=32), st.integers(0, 2**64 - 1))
def test_receipts_have_the_digest_that_eth_account_computes(channel, version, state_hash, until):
    message = encode_typed_data(
        {"name": "Veilpod", "version": "1", "chainId": DOMAIN.chain_id, "verifyingContract": DOMAIN.contract},
        {
            "Guard": [
                {"name": "channelId", "type": "bytes32"},
                {"name": "version", "type": "uint56"},
                {"name": "stateHash", "type": "bytes32"},
                {"name": "until", "type": "uint64"},
            ]
        },
        {"channelId": channel, "version": version, "stateHash": state_hash, "until": until},
    )
    oracle = keccak256(b"\x19" + message.version + message.header + message.body)
    assert typed_data.guard_digest(DOMAIN, ChannelId(channel), version=version, state_hash=state_hash, until=until) == oracle


@settings(deadline=None)  # signing, on whatever machine
@given(states)
def test_a_request_is_read_as_it_was_written(state):
    guarded = PAIR.signed(state)
    assert parse_request(DOMAIN, request_document(DOMAIN, guarded)) == guarded
    guarded.check(DOMAIN)


@settings(deadline=None)  # signing, on whatever machine
@given(states, st.integers(0, 2**62))
def test_a_receipt_is_read_as_it_was_written_and_is_its_signers_alone(state, until):
    guarded = PAIR.signed(state)
    receipt = make_receipt(TOWER, DOMAIN, guarded, until=until)
    assert parse_receipt(receipt.document()) == receipt
    receipt.check(DOMAIN, TOWER.address)
    changes = {"version": receipt.version ^ 1, "until": until + 1, "state_hash": keccak256(b"other"), "channel": ChannelId(keccak256(b"c"))}
    for field, value in changes.items():
        with pytest.raises(ProtocolViolation):
            dataclasses.replace(receipt, **{field: value}).check(DOMAIN, TOWER.address)
    for domain in (dataclasses.replace(DOMAIN, chain_id=1), dataclasses.replace(DOMAIN, contract=A)):
        with pytest.raises(ProtocolViolation):
            receipt.check(domain, TOWER.address)
    with pytest.raises(ProtocolViolation):
        receipt.check(DOMAIN, A)


@pytest.mark.parametrize("broken", [b"", bytes(65), b"\xff" * 65])
def test_a_malformed_signature_is_a_refusal_and_nothing_else(broken):
    good = PAIR.agreed(3)
    for field in ("signature_a", "signature_b"):
        with pytest.raises(ProtocolViolation) as caught:
            dataclasses.replace(good, **{field: broken}).check(DOMAIN)
        assert caught.value.reason == "BadSignature"


def test_signatures_in_the_wrong_order_or_for_closing_are_refused():
    good = PAIR.agreed(3)
    close = good.state.close_digest(DOMAIN, good.place.channel)
    for bad in (
        dataclasses.replace(good, signature_a=good.signature_b, signature_b=good.signature_a),
        dataclasses.replace(good, signature_a=KEYS[Party.A].sign(close), signature_b=KEYS[Party.B].sign(close)),
    ):
        with pytest.raises(ProtocolViolation):
            bad.check(DOMAIN)


@pytest.mark.parametrize(
    "change",
    [
        {"chainId": 1},
        {"contract": "0x" + "22" * 20},
        {"chainId": True},
        {"a": "0x" + "ff" * 20},  # parties in descending order
        {"signatureA": "0x00"},
        {"state": []},
        {"extra": 1},
        {"terms": {}},
    ],
    ids=str,
)
def test_another_shape_or_place_is_refused(change):
    document = request_document(DOMAIN, PAIR.agreed(3)) | change
    with pytest.raises(ProtocolViolation):
        parse_request(DOMAIN, document)


def test_the_place_is_the_channel_of_the_contract():
    assert (
        Guarded(place=Place(a=A, b=B, terms=TERMS), state=PAIR.state(1), signature_a=b"", signature_b=b"").place.channel
        == PAIR.place.channel
    )
