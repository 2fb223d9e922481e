import pytest
from eth_account.messages import encode_typed_data
from hypothesis import given
from hypothesis import strategies as st

from veilpod.core import typed_data
from veilpod.core.canonical import keccak256
from veilpod.core.ids import ChannelId, TaskId
from veilpod.core.keys import checksum_address

words = st.binary(min_size=32, max_size=32)
addresses = st.binary(min_size=20, max_size=20).map(checksum_address)
domains = st.builds(typed_data.Domain, chain_id=st.integers(1, 2**63), contract=addresses)


def uint(bits):
    return st.integers(0, 2**bits - 1)


def oracle(domain, type_string, values):
    name, fields = type_string[:-1].split("(")
    message = encode_typed_data(
        {"name": "Veilpod", "version": "1", "chainId": domain.chain_id, "verifyingContract": domain.contract},
        {name: [dict(zip(("type", "name"), field.split(" "), strict=True)) for field in fields.split(",")]},
        values,
    )
    return keccak256(b"\x19" + message.version + message.header + message.body)


@given(domains, words, uint(56), uint(80), uint(80), words)
def test_states_and_closes_have_the_digest_that_eth_account_computes(domain, channel, version, balance_a, balance_b, data_hash):
    values = {"channelId": channel, "version": version, "balanceA": balance_a, "balanceB": balance_b, "dataHash": data_hash}
    ours = {"version": version, "balance_a": balance_a, "balance_b": balance_b, "data_hash": data_hash}
    assert typed_data.state_digest(domain, ChannelId(channel), **ours) == oracle(domain, typed_data.STATE_TYPE, values)
    assert typed_data.close_digest(domain, ChannelId(channel), **ours) == oracle(domain, typed_data.CLOSE_TYPE, values)


@given(domains, words, uint(16), uint(80), uint(80), uint(256))
def test_openings_have_the_digest_that_eth_account_computes(domain, channel, epoch, deposit_a, deposit_b, deadline):
    values = {"channelId": channel, "epoch": epoch, "depositA": deposit_a, "depositB": deposit_b, "deadline": deadline}
    ours = typed_data.open_digest(domain, ChannelId(channel), epoch=epoch, deposit_a=deposit_a, deposit_b=deposit_b, deadline=deadline)
    assert ours == oracle(domain, typed_data.OPEN_TYPE, values)


@given(domains, words, addresses, words)
def test_sandbox_keys_and_results_have_the_digest_that_eth_account_computes(domain, task, key, other):
    ours = typed_data.sandbox_key_digest(domain, TaskId(task), key=key, statements_hash=other)
    assert ours == oracle(domain, typed_data.SANDBOX_KEY_TYPE, {"taskId": task, "key": key, "statementsHash": other})
    ours = typed_data.result_digest(domain, TaskId(task), result_hash=other)
    assert ours == oracle(domain, typed_data.RESULT_TYPE, {"taskId": task, "resultHash": other})


@given(domains, words, uint(56), uint(80))
def test_a_state_is_never_a_close(domain, channel, version, balance):
    values = {"version": version, "balance_a": balance, "balance_b": 0, "data_hash": bytes(32)}
    assert typed_data.state_digest(domain, ChannelId(channel), **values) != typed_data.close_digest(domain, ChannelId(channel), **values)


@pytest.mark.parametrize("change", [{"version": 2**56}, {"balance_a": 2**80}, {"balance_b": -1}, {"data_hash": b"short"}])
def test_values_that_the_contract_would_truncate_are_refused(change):
    domain = typed_data.Domain(chain_id=1, contract=checksum_address(bytes(20)))
    with pytest.raises(ValueError):
        typed_data.state_digest(
            domain, ChannelId(bytes(32)), **{"version": 1, "balance_a": 1, "balance_b": 1, "data_hash": bytes(32)} | change
        )


def test_statements_are_hashed_packed_and_in_order():
    one, two = keccak256(b"1"), keccak256(b"2")
    assert typed_data.statements_hash([one, two]) == keccak256(one + two) != typed_data.statements_hash([two, one])
