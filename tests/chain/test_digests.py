"""One digest, three ways: the contract's, the fast path's and eth-account's, for random values.

The contracts show no digest. They show whether a signature over it is good: each of two parties signs what one of the two Python
ways computed, and a contract that computed anything else would recover strangers.
"""

import asyncio
import contextlib

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import evm
from tests.support.anvil import CHAIN_ID, account, running

from veilpod.chain import contracts
from veilpod.core import typed_data
from veilpod.core.canonical import keccak256
from veilpod.core.ids import ChannelId, TaskId
from veilpod.core.keys import SigningKey

pytestmark = pytest.mark.chain

MANAGER = contracts.contract("ChannelManager").functions
SCHEDULER = contracts.contract("TaskScheduler").functions
REGISTRY = contracts.contract("NodeRegistry").functions
ME = account(1).address
words = st.binary(min_size=32, max_size=32)
secrets = st.integers(1, 2**250).map(lambda n: SigningKey(secret=n.to_bytes(32, "big")))
quick = settings(deadline=None, max_examples=200)


def uint(bits):
    return st.integers(0, 2**bits - 1)


@pytest.fixture(scope="module")
def node():
    with running() as node, contextlib.ExitStack() as stack:
        asyncio.run(node.deploy_contracts())
        stack.enter_context(evm.by_hand(node))
        yield node


def sign_with_eth_account(key, domain, type_string, values):
    """A signature over what eth-account makes of a type: 65 bytes."""
    name, fields = type_string[:-1].split("(")
    message = encode_typed_data(
        {"name": "Veilpod", "version": "1", "chainId": domain.chain_id, "verifyingContract": domain.contract},
        {name: [dict(zip(("type", "name"), field.split(" "), strict=True)) for field in fields.split(",")]},
        values,
    )
    return bytes(Account.sign_message(message, key.secret).signature)


def pair(one, two):
    """Two keys in the order of their accounts."""
    return sorted((one, two), key=lambda key: int(key.address, 16))


def place(keys, terms):
    """A channel's id as a call takes it, and its hash."""
    accounts = [key.address for key in keys]
    packed = b"".join(int(account_, 16).to_bytes(32, "big") for account_ in accounts)
    return (*accounts, terms), ChannelId(keccak256(packed + terms.to_bytes(32, "big")))


def test_the_domains_are_the_same(node):
    for contract, functions in ((node.addresses.channels, MANAGER), (node.addresses.scheduler, SCHEDULER)):
        domain = typed_data.Domain(chain_id=CHAIN_ID, contract=contract)
        assert evm.ask(node, [evm.call(contract, functions["domainSeparator"].encode())]) == ["0x" + domain.separator.hex()]


@given(secrets, secrets, uint(96), uint(16), uint(40), uint(79), uint(79), words)
@quick
def test_states_and_closes(node, one, two, terms, epoch, sequence, balance_a, balance_b, data_hash):
    keys = a, b = pair(one, two)
    if a == b:
        return
    domain = typed_data.Domain(chain_id=CHAIN_ID, contract=node.addresses.channels)
    id_, cid = place(keys, terms)
    version = epoch << 40 | sequence
    # A channel in dispute at sequence 0 with the same total, for ever: the state to be judged is the next one.
    word = 3 << 248 | epoch << 232 | (2**32 - 1) << 160 | balance_b << 80 | balance_a
    slot = keccak256(cid + bytes(32))
    overrides = {node.addresses.channels: {"stateDiff": {"0x" + slot.hex(): "0x" + word.to_bytes(32, "big").hex()}}}
    values = {"channelId": cid, "version": version, "balanceA": balance_a, "balanceB": balance_b, "dataHash": data_hash}
    ours = {"version": version, "balance_a": balance_a, "balance_b": balance_b, "data_hash": data_hash}
    state = (version, balance_a, balance_b, data_hash)
    cases = (("close", typed_data.CLOSE_TYPE, typed_data.close_digest), ("respond", typed_data.STATE_TYPE, typed_data.state_digest))
    for name, type_string, digest in cases:
        if name == "respond" and sequence == 0:
            continue
        fast, reference = a.sign(digest(domain, cid, **ours)), sign_with_eth_account(b, domain, type_string, values)
        assert judged(node, name, overrides, id_, state, fast, reference)
        assert not judged(node, name, overrides, id_, (*state[:3], keccak256(data_hash)), fast, reference)


def judged(node, name, overrides, *args):
    data = MANAGER[name].encode(*args)
    transaction = {"from": account(3).address, "to": node.addresses.channels, "data": "0x" + data.hex()}
    return evm.goes_through(node, transaction, overrides)


@given(secrets, st.integers(60, 30 * 86400), uint(48), st.integers(0, 10_000), uint(60), st.integers(2**40, 2**256 - 1))
@quick
def test_openings(node, peer, period, lane, bps, deposit, until):
    me = account(1)
    if peer == me:
        return
    keys = pair(me, peer)
    domain = typed_data.Domain(chain_id=CHAIN_ID, contract=node.addresses.channels)
    id_, cid = place(keys, lane << 48 | period << 16 | bps)
    deposits = {"depositA": deposit if keys[0] == me else 0, "depositB": deposit if keys[1] == me else 0}
    values = {"channelId": cid, "epoch": 1, **deposits, "deadline": until}
    digest = typed_data.open_digest(domain, cid, epoch=1, deposit_a=deposits["depositA"], deposit_b=deposits["depositB"], deadline=until)
    for signature in (peer.sign(digest), sign_with_eth_account(peer, domain, typed_data.OPEN_TYPE, values)):
        data = MANAGER["openBoth"].encode(id_, *deposits.values(), until, signature)
        transaction = {"from": me.address, "to": node.addresses.channels, "data": "0x" + data.hex(), "value": hex(deposit)}
        assert evm.goes_through(node, transaction)
        transaction["data"] = "0x" + MANAGER["openBoth"].encode(id_, *deposits.values(), until - 1, signature).hex()
        assert not evm.goes_through(node, transaction)


@given(st.data())
@settings(deadline=None, max_examples=50)
def test_sandbox_keys_and_results(node, data):
    now = int(node.rpc("eth_getBlockByNumber", "latest", False)["timestamp"], 16)
    registry, scheduler = node.addresses.registry, node.addresses.scheduler
    server, salt = account(2), data.draw(words)
    sandbox, result, statement = data.draw(secrets), data.draw(words.filter(any)), data.draw(words)
    domain = typed_data.Domain(chain_id=CHAIN_ID, contract=scheduler)
    with evm.undone(node):
        registered = REGISTRY["register"].encode(4, 1, b"\x01" * 32, b"\x02" * 32, "", [bytes(32)] * 2)
        assert evm.send(node, server.address, registry, registered, at=now + 1)
        terms = (1, 0, 0, now + 1000, now + 2000, now + 3000, now + 4000)
        assert evm.send(node, ME, scheduler, SCHEDULER["request"].encode(salt, b"", terms), at=now + 2)
        task = TaskId(keccak256(bytes(12) + bytes.fromhex(ME[2:]) + salt))
        assert evm.send(node, ME, scheduler, SCHEDULER["assign"].encode(task, [1], []), at=now + 3)

        hashed = typed_data.statements_hash([statement])
        values = {"taskId": task, "key": sandbox.address, "statementsHash": hashed}
        signatures = (
            server.sign(typed_data.sandbox_key_digest(domain, task, key=sandbox.address, statements_hash=hashed)),
            sign_with_eth_account(server, domain, typed_data.SANDBOX_KEY_TYPE, values),
        )
        for signature in signatures:
            published = SCHEDULER["publishKey"].encode(task, sandbox.address, [statement], signature, b"")
            assert evm.goes_through(node, {"from": ME, "to": scheduler, "data": "0x" + published.hex()})
        assert evm.send(node, ME, scheduler, published, at=now + 4)

        signatures = (
            sandbox.sign(typed_data.result_digest(domain, task, result_hash=result)),
            sign_with_eth_account(sandbox, domain, typed_data.RESULT_TYPE, {"taskId": task, "resultHash": result}),
        )
        for signature in signatures:
            completed = SCHEDULER["complete"].encode(task, 0, result, signature)
            assert evm.goes_through(node, {"from": server.address, "to": scheduler, "data": "0x" + completed.hex()})
