import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.channels import CHANNEL, DOMAIN, KEYS, MIB, Agents, link, opening

from veilpod.core.channel import dispute, rules
from veilpod.core.channel.machine import Party
from veilpod.core.channel.records import ReceiptRecord, Signed, StateRecord, decode, encode
from veilpod.core.channel.state import ChannelState, channel_id, order, pack_terms, parse_state
from veilpod.core.entities import ChainChannel, ChannelPhase, ChannelTerms
from veilpod.core.ids import Address
from veilpod.core.keys import checksum_address
from veilpod.errors import InvalidInput, ProtocolViolation

sizes = st.integers(1, 4 * MIB)
transfers = st.lists(st.tuples(st.integers(0, 1), sizes), max_size=12)


def attested(made):
    agents = Agents()
    for direction, size in made:
        agents.transfer(direction, size)
    return agents.receipts


def code(function, *args, **kwargs):
    with pytest.raises(ProtocolViolation) as caught:
        function(*args, **kwargs)
    return caught.value.reason


@given(transfers, st.integers(0, 3000))
def test_what_is_proposed_is_what_is_checked(made, price):
    receipts = rules.affordable(opening(), attested(made), price)
    state = rules.propose(opening(), receipts, price)
    progress = rules.check(link(price=price), opening(), link().start(), state, receipts)
    assert state.total == opening().total
    assert min(state.balance_a, state.balance_b) >= 0
    assert state.sequence == 1
    paid_by_a = sum(-(-r.size * price // MIB) for r in receipts if r.direction == 0)
    paid_by_b = sum(-(-r.size * price // MIB) for r in receipts if r.direction == 1)
    assert state.balance_a == opening().balance_a - paid_by_a + paid_by_b
    assert progress == link().start().after(receipts)


@given(sizes, st.integers(0, 10**18))
def test_an_amount_is_rounded_up_and_never_by_a_whole_wei(size, price):
    assert 0 <= rules.amount(size, price) * MIB - size * price < MIB


@given(transfers)
def test_a_payer_without_money_blocks_only_its_own_direction_and_keeps_its_order(made):
    receipts = attested(made)
    chosen = rules.affordable(opening(deposit_a=1500, deposit_b=0), receipts, 1000)
    rules.propose(opening(deposit_a=1500, deposit_b=0), chosen, 1000)
    for direction in (0, 1):
        taken = [r.sequence for r in chosen if r.direction == direction]
        assert taken == list(range(1, len(taken) + 1))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"version": (1 << 40) + 2}, "NotSuccessor"),
        ({"version": 1 << 40}, "NotSuccessor"),
        ({"version": (2 << 40) + 1}, "NotSuccessor"),
        ({"balance_a": 9_001, "balance_b": 10_999}, "WrongState"),
        ({"balance_b": 10_999}, "WrongState"),
        ({"data_hash": bytes(32)}, "WrongState"),
    ],
)
def test_a_state_that_does_not_follow_is_refused(change, expected):
    receipts = attested([(0, MIB)])
    state = rules.propose(opening(), receipts, 1000)
    assert code(rules.check, link(), opening(), link().start(), dataclasses.replace(state, **change), receipts) == expected


@pytest.mark.parametrize(
    "pick",
    [
        pytest.param([1], id="left out"),
        pytest.param([0, 0], id="repeated"),
        pytest.param([1, 0], id="out of order"),
    ],
)
def test_receipts_chain_without_gaps_or_repeats(pick):
    receipts = attested([(0, MIB), (0, MIB)])
    chosen = [receipts[i] for i in pick]
    state = rules.propose(opening(), chosen, 1000)
    assert code(rules.check, link(), opening(), link().start(), state, chosen) == "BadReceipt"


@pytest.mark.parametrize("change", [{"size": 1}, {"digest": bytes(32)}, {"direction": 1}, {"signature": bytes(65)}, {"head": bytes(32)}])
def test_a_receipt_that_its_receiver_did_not_sign_is_refused(change):
    (receipt,) = attested([(0, MIB)])
    forged = [dataclasses.replace(receipt, **change)]
    state = rules.propose(opening(), forged, 1000)
    assert code(rules.check, link(), opening(), link().start(), state, forged) in ("BadReceipt", "BadSignature")


def test_no_balance_goes_below_zero():
    receipts = attested([(0, 11 * MIB)])
    assert code(rules.propose, opening(), receipts, 1000) == "BalanceTooLow"
    rich = dataclasses.replace(opening(), balance_a=9_000, balance_b=11_000, version=(1 << 40) + 1)
    assert code(rules.check, link(), opening(), link().start(), rich, receipts) == "BalanceTooLow"


@given(st.integers(0, 2**56 - 1), st.integers(0, 2**80 - 1), st.integers(0, 2**80 - 1), st.binary(min_size=32, max_size=32))
def test_states_survive_their_spelling(version, balance_a, balance_b, data_hash):
    state = ChannelState(version=version, balance_a=balance_a, balance_b=balance_b, data_hash=data_hash)
    assert parse_state(state.to_json()) == state
    assert state.version == state.epoch << 40 | state.sequence


@pytest.mark.parametrize(
    "change", [{"version": 1.0}, {"version": True}, {"version": 2**56}, {"balanceA": 5}, {"balanceA": "05"}, {"balanceA": "-1"},
               {"balanceB": str(2**80)}, {"balanceB": "٣"}, {"dataHash": "0x00"}, {"more": 1}]
)  # fmt: skip
def test_a_state_with_another_spelling_is_refused(change):
    assert code(parse_state, opening().to_json() | change) == "BadState"


def test_parties_and_terms_have_one_order_and_fit_their_bits():
    low, high = checksum_address(b"\x01" * 20), checksum_address(b"\xff" * 20)
    terms = ChannelTerms(asset=Address("0x" + "00" * 20), lane=1, challenge_period=2, penalty_bps=3)
    assert order(high, low) == order(low, high) == (low, high)
    assert pack_terms(terms) == 1 << 48 | 2 << 16 | 3
    with pytest.raises(InvalidInput):
        channel_id(high, low, terms)
    with pytest.raises(InvalidInput):
        pack_terms(dataclasses.replace(terms, lane=1 << 48))


@given(transfers, st.booleans())
def test_records_survive_their_spelling(made, final):
    receipts = tuple(attested(made))
    signed = Signed(state=opening(), final=final, signature_a=b"\x01" * 65)
    record = StateRecord(channel=CHANNEL, signed=signed, receipts=receipts)
    assert decode(encode(record)) == record
    for receipt in receipts:
        assert decode(encode(ReceiptRecord(channel=CHANNEL, epoch=1, receipt=receipt))).receipt == receipt
    assert code(decode, encode(record)[:-1]) == "BadRecord"


def signed(sequence, *, final=False, epoch=1):
    state = ChannelState(version=epoch << 40 | sequence, balance_a=5, balance_b=5, data_hash=bytes(32))
    sign = {party: key.sign(state.digest(DOMAIN, CHANNEL)) for party, key in KEYS.items()}
    close = {party: key.sign(state.close_digest(DOMAIN, CHANNEL)) if final else b"" for party, key in KEYS.items()}
    return Signed(
        state=state, final=final, signature_a=sign[Party.A], signature_b=sign[Party.B], close_a=close[Party.A], close_b=close[Party.B]
    )


def on_chain(phase, *, epoch=1, sequence=0, deadline=100):
    return ChainChannel(id=CHANNEL, phase=phase, epoch=epoch, sequence=sequence, deadline=deadline, balance_a=4, balance_b=6)


def test_an_older_state_in_dispute_is_answered_while_the_period_runs():
    disputed = on_chain(ChannelPhase.DISPUTED, sequence=4)
    assert dispute.answer(disputed, signed(5), now=100) == signed(5)
    assert dispute.answer(disputed, signed(5), now=101) is None
    assert dispute.answer(disputed, signed(4), now=1) is None
    assert dispute.answer(disputed, signed(5, epoch=2), now=1) is None
    assert dispute.answer(disputed, None, now=1) is None
    assert dispute.answer(disputed, dataclasses.replace(signed(5), signature_b=b""), now=1) is None
    assert dispute.answer(on_chain(ChannelPhase.OPEN), signed(5), now=1) is None


def test_only_a_final_state_of_this_session_closes_at_once():
    assert dispute.closing(on_chain(ChannelPhase.OPEN), signed(5, final=True)) == signed(5, final=True)
    assert dispute.closing(on_chain(ChannelPhase.DISPUTED, sequence=5), signed(5, final=True)) == signed(5, final=True)
    assert dispute.closing(on_chain(ChannelPhase.DISPUTED, sequence=6), signed(5, final=True)) is None
    assert dispute.closing(on_chain(ChannelPhase.OPEN), signed(5)) is None
    assert dispute.closing(on_chain(ChannelPhase.OPEN, epoch=2), signed(5, final=True)) is None
    assert dispute.closing(on_chain(ChannelPhase.CLOSED), signed(5, final=True)) is None


def test_a_channel_ends_alone_with_the_newest_state_or_the_deposits():
    assert dispute.challenging(on_chain(ChannelPhase.OPEN), signed(5)) == (signed(5).state, signed(5))
    state, signatures = dispute.challenging(on_chain(ChannelPhase.OPEN), None)
    assert (state.version, state.balance_a, state.balance_b, signatures) == (1 << 40, 4, 6, None)
    assert dispute.challenging(on_chain(ChannelPhase.OPEN, epoch=2), signed(5))[0].epoch == 2
    assert dispute.challenging(on_chain(ChannelPhase.DISPUTED), signed(5)) is None
