import asyncio
import json
import signal

import pytest
from tests.chain.test_task_life import ETHER, register
from tests.support.anvil import account, caught_up, eventually, start
from tests.support.channels import TERMS

from veilpod.chain import connection, sender
from veilpod.core.channel.state import channel_id, order
from veilpod.core.entities import ChannelPhase, NodeStatus, Role
from veilpod.core.keys import SigningKey
from veilpod.errors import ChainRejected, InsufficientFunds, Refused, Transient

pytestmark = pytest.mark.chain
ME = account(1).address


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Look after unsettled transactions more often than an operator would."""
    monkeypatch.setattr(connection, "_LOOK_ANYWAY_SECONDS", 0.1)


def sent_by_me(anvil):
    return int(anvil.rpc("eth_getTransactionCount", ME, "latest"), 16)


def stop_mining(anvil):
    anvil.rpc("evm_setAutomine", False)


async def left_behind(chain, call):
    """Begin a call, wait until its transaction has left, and die: the caller, the sender and the connection."""
    task = asyncio.create_task(call)
    await eventually(lambda: chain.pending_transactions == 1)
    await eventually(lambda: chain.pool())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await chain.close()


@pytest.fixture
def open_mine(open_chain, anvil):
    """Connections of one key and one state directory."""

    async def open_one(**options):
        chain = await open_chain(1, **options)
        chain.pool = lambda: anvil.rpc("eth_getTransactionCount", ME, "pending") != anvil.rpc("eth_getTransactionCount", ME, "latest")
        return chain

    return open_one


@pytest.mark.parametrize("when", ["in the pool", "forgotten by the node", "mined"])
async def test_a_deposit_whose_sender_died_is_paid_once(anvil, open_mine, when):
    stop_mining(anvil)
    chain = await open_mine()
    before = sent_by_me(anvil)
    await left_behind(chain, chain.writer.deposit_stake(ETHER))
    if when == "forgotten by the node":
        anvil.rpc("anvil_dropAllTransactions")
    if when == "mined":
        anvil.mine()

    chain = await open_mine()
    assert chain.pending_transactions == 1
    again = asyncio.create_task(chain.writer.deposit_stake(ETHER))
    if when == "forgotten by the node":
        await eventually(chain.pool)
    if when != "mined":
        anvil.mine()
    await asyncio.wait_for(again, 20)
    assert await chain.reader.stake_of(ME) == (ETHER, 0)
    assert sent_by_me(anvil) == before + 1
    assert [line.purpose for line in chain.history()] == ["TaskScheduler.depositStake"]
    assert chain.pending_transactions == 0


async def test_a_deposit_that_died_settles_though_nobody_asks_again(anvil, open_mine):
    stop_mining(anvil)
    chain = await open_mine()
    await left_behind(chain, chain.writer.deposit_stake(ETHER))
    anvil.rpc("anvil_dropAllTransactions")
    chain = await open_mine()
    await eventually(chain.pool)
    anvil.mine()
    await eventually(lambda: not chain.pending_transactions)
    assert (await chain.reader.stake_of(ME))[0] == ETHER


async def test_a_second_deposit_of_another_amount_is_sent_back_to_look(anvil, open_mine):
    stop_mining(anvil)
    chain = await open_mine()
    await left_behind(chain, chain.writer.deposit_stake(ETHER))
    chain = await open_mine()
    again = asyncio.create_task(chain.writer.deposit_stake(2 * ETHER))
    await asyncio.sleep(0)
    anvil.mine()
    with pytest.raises(Transient):
        await asyncio.wait_for(again, 20)
    assert await chain.reader.stake_of(ME) == (ETHER, 0)


async def test_nonces_of_many_callers_follow_each_other(anvil, open_mine):
    chain = await open_mine()
    node = await register(chain, anvil.addresses, roles=Role.STORAGE, endpoint="127.0.0.1:1")
    before = sent_by_me(anvil)
    async with asyncio.TaskGroup() as group:
        for size in range(1, 21):
            group.create_task(chain.writer.add_resource(node=node, name=f"data {size}", digest=b"\x01" * 32, size=size))
    assert sent_by_me(anvil) == before + 20
    assert sorted(line.nonce for line in chain.history())[-20:] == list(range(before, before + 20))
    assert len(await chain.reader.resources_named("data 20")) == 1


async def test_a_receipt_is_believed_at_depth_only(anvil, open_mine):
    chain = await open_mine(depth=3)
    deposit = asyncio.create_task(chain.writer.deposit_stake(ETHER))
    await eventually(lambda: sent_by_me(anvil))
    for _ in range(2):
        anvil.mine()
        await caught_up(chain, anvil)
        await asyncio.sleep(0.2)
        assert not deposit.done()
        assert await chain.reader.stake_of(ME) == (0, 0)
    anvil.mine()
    await asyncio.wait_for(deposit, 20)
    assert await chain.reader.stake_of(ME) == (ETHER, 0)


@pytest.mark.parametrize("depth", [1, 2, 3])
async def test_a_reorganisation_that_swallows_a_deposit_does_not_swallow_the_money(anvil, open_mine, depth):
    chain = await open_mine(depth=4)
    deposit = asyncio.create_task(chain.writer.deposit_stake(ETHER))
    await eventually(lambda: sent_by_me(anvil) == 1)
    if depth > 1:
        anvil.mine(depth - 1)
    await caught_up(chain, anvil)
    stop_mining(anvil)
    anvil.rpc("anvil_reorg", depth, [])
    anvil.rpc("anvil_dropAllTransactions")
    assert sent_by_me(anvil) == 0
    await eventually(chain.pool)  # sent again
    anvil.mine(6)
    await asyncio.wait_for(deposit, 20)
    assert await chain.reader.stake_of(ME) == (ETHER, 0)
    assert sent_by_me(anvil) == 1
    assert len(chain.history()) == 1


async def test_a_transaction_that_blocks_pass_over_pays_more_for_the_same_nonce(anvil, open_mine, monkeypatch, tmp_path):
    stop_mining(anvil)
    monkeypatch.setattr(sender, "STALL_SECONDS", 0.3)
    chain = await open_mine()
    deposit = asyncio.create_task(chain.writer.deposit_stake(ETHER))

    def attempts():
        files = list((tmp_path / "state-1" / f"sender-{ME.lower()}" / "pending").glob("*.json"))
        return json.loads(files[0].read_text())["attempts"] if files else []

    await eventually(lambda: len(attempts()) >= 3)
    for one, next_one in zip(attempts(), attempts()[1:], strict=False):
        for fee in ("max_fee", "priority_fee"):
            assert next_one[fee] >= one[fee] * 1.1
    pool = anvil.rpc("txpool_content")["pending"]
    (waiting,) = pool[next(address for address in pool if address.lower() == ME.lower())].values()
    assert waiting["hash"] in [attempt["hash"] for attempt in attempts()[1:]]
    anvil.mine()
    await asyncio.wait_for(deposit, 20)
    assert await chain.reader.stake_of(ME) == (ETHER, 0)
    assert sent_by_me(anvil) == 1


async def test_fees_stop_rising_at_twice_the_going_price(anvil, open_mine, monkeypatch, tmp_path):
    stop_mining(anvil)
    monkeypatch.setattr(sender, "STALL_SECONDS", 0.0)
    chain = await open_mine()
    deposit = asyncio.create_task(chain.writer.deposit_stake(ETHER))
    directory = tmp_path / "state-1" / f"sender-{ME.lower()}" / "pending"
    await eventually(lambda: list(directory.glob("*.json")))
    (file,) = directory.glob("*.json")
    await eventually(lambda: len(json.loads(file.read_text())["attempts"]) >= 5)
    await asyncio.sleep(1)
    assert len(json.loads(file.read_text())["attempts"]) <= 8
    anvil.mine()
    await asyncio.wait_for(deposit, 20)


async def test_a_contract_that_refuses_is_named_before_anything_is_sent(anvil, open_mine):
    chain = await open_mine()
    before = sent_by_me(anvil)
    with pytest.raises(ChainRejected) as caught:
        await chain.writer.heartbeat(7)
    assert caught.value.reason == "RegisterNodeFirst"
    assert "RegisterNodeFirst(7)" in str(caught.value)
    assert sent_by_me(anvil) == before
    assert chain.pending_transactions == 0


async def test_a_contract_that_refuses_in_the_block_is_named_too(anvil, open_mine):
    chain = await open_mine()
    node = await register(chain, anvil.addresses, roles=Role.STORAGE, endpoint="127.0.0.1:1")
    stop_mining(anvil)
    retire = asyncio.create_task(chain.writer.set_status(node, NodeStatus.RETIRED))
    await eventually(lambda: chain.pending_transactions == 1)
    beat = asyncio.create_task(chain.writer.heartbeat(node))
    await eventually(lambda: int(anvil.rpc("txpool_status")["pending"], 16) == 2)  # both are with the node, so one block has both
    anvil.mine()
    await asyncio.wait_for(retire, 60)
    with pytest.raises(ChainRejected) as caught:
        await asyncio.wait_for(beat, 60)
    assert caught.value.reason == "NodeRetired"
    assert [line.succeeded for line in chain.history()] == [True, True, False]


async def test_an_account_without_coin_waits_and_says_so(anvil, open_chain, monkeypatch):
    chain = await open_chain(1)
    anvil.rpc("anvil_setBalance", ME, hex(ETHER // 2))
    with pytest.raises(InsufficientFunds) as caught:
        await chain.writer.deposit_stake(ETHER)
    assert ME in str(caught.value)
    assert chain.pending_transactions == 0
    # Enough for the value but not for the gas: the node refuses it only when it is sent.
    anvil.rpc("anvil_setBalance", ME, hex(ETHER + 10**9))
    with pytest.raises(InsufficientFunds) as caught:
        await chain.writer.deposit_stake(ETHER)
    anvil.rpc("anvil_setBalance", ME, hex(5 * ETHER))
    await chain.writer.deposit_stake(ETHER)
    assert [line.nonce for line in chain.history()] == [0]


async def test_a_key_has_one_sender(anvil, open_chain):
    first = await open_chain(1)
    with pytest.raises(Refused) as caught:
        await open_chain(1)
    assert caught.value.reason == "SenderActive"
    await first.close()
    await open_chain(1)


async def test_a_nonce_that_somebody_else_took_is_noticed_and_the_call_can_be_repeated(anvil, open_mine):
    stop_mining(anvil)
    chain = await open_mine(depth=1)
    deposit = asyncio.create_task(chain.writer.deposit_stake(ETHER))
    await eventually(chain.pool)
    anvil.rpc("anvil_dropAllTransactions")
    anvil.rpc("anvil_impersonateAccount", ME)
    anvil.rpc("eth_sendTransaction", {"from": ME, "to": ME, "value": "0x0", "gasPrice": hex(10**12)})
    anvil.mine(3)
    with pytest.raises(Transient, match="two senders"):
        await asyncio.wait_for(deposit, 20)
    assert chain.pending_transactions == 0
    deposit = asyncio.create_task(chain.writer.deposit_stake(ETHER))
    await eventually(chain.pool)
    anvil.mine(3)
    await asyncio.wait_for(deposit, 20)
    assert (await chain.reader.stake_of(ME))[0] == ETHER


async def _unheard(self, entry):
    """What is sent gets lost."""
    self._moved_at[entry.nonce] = self._clock()


async def test_a_transaction_replaced_by_its_dearer_form_settles_in_the_form_that_was_mined(anvil, open_mine, monkeypatch, tmp_path):
    stop_mining(anvil)
    monkeypatch.setattr(sender, "STALL_SECONDS", 0.2)
    chain = await open_mine()
    deposit = asyncio.create_task(chain.writer.deposit_stake(ETHER))
    directory = tmp_path / "state-1" / f"sender-{ME.lower()}" / "pending"
    await eventually(lambda: list(directory.glob("*.json")))
    (file,) = directory.glob("*.json")
    await eventually(lambda: len(json.loads(file.read_text())["attempts"]) >= 2)
    first = json.loads(file.read_text())["attempts"][0]
    monkeypatch.setattr(sender.Sender, "_broadcast", _unheard)  # a miner that heard of the first form only
    anvil.rpc("anvil_dropAllTransactions")
    anvil.rpc("eth_sendRawTransaction", first["raw"])
    anvil.mine()
    await asyncio.wait_for(deposit, 20)
    assert await chain.reader.stake_of(ME) == (ETHER, 0)
    assert sent_by_me(anvil) == 1
    assert len(chain.history()) == 1
    assert chain.history()[0].hash == first["hash"]


async def test_a_node_that_restarts_with_an_empty_pool_is_told_again(tmp_path, open_chain):
    dumped = ("--state", str(tmp_path / "node.json"), "--preserve-historical-states")
    node = start(*dumped)
    try:
        addresses = await node.deploy_contracts()
        chain = await open_chain(1, url=node.url, addresses=addresses)
        await chain.writer.deposit_stake(5)
        stop_mining(node)
        deposit = asyncio.create_task(chain.writer.deposit_stake(ETHER))
        await eventually(lambda: node.rpc("eth_getTransactionCount", ME, "pending") == "0x2")
        node.process.send_signal(signal.SIGINT)
        node.process.wait(20)
        await eventually(lambda: not chain.reachable)
        node = start(*dumped, "--no-mining", port=node.port)
        await eventually(lambda: node.rpc("eth_getTransactionCount", ME, "pending") == "0x2", 30)
        node.mine()
        await asyncio.wait_for(deposit, 20)
        assert await chain.reader.stake_of(ME) == (ETHER + 5, 0)
        assert node.rpc("eth_getTransactionCount", ME, "latest") == "0x2"
    finally:
        node.stop()


async def test_transactions_of_the_key_that_are_not_ours_are_counted_and_stepped_over(anvil, open_mine):
    chain = await open_mine()
    await chain.writer.deposit_stake(ETHER)
    assert chain.foreign_transactions == 0
    anvil.rpc("anvil_impersonateAccount", ME)
    for _ in range(2):
        anvil.rpc("eth_sendTransaction", {"from": ME, "to": ME, "value": "0x0"})
    await eventually(lambda: chain.foreign_transactions == 2)
    await chain.writer.deposit_stake(ETHER)
    assert (await chain.reader.stake_of(ME))[0] == 2 * ETHER
    assert [line.nonce for line in chain.history()] == [0, 3]
    await asyncio.sleep(0.3)
    assert chain.foreign_transactions == 2


async def test_a_channel_opened_by_a_sender_who_died_is_opened_once(anvil, open_mine):
    stop_mining(anvil)
    a, b = order(ME, SigningKey(secret=b"\x09" * 32).address)
    chain = await open_mine()
    await left_behind(chain, chain.writer.open_channel(a, b, TERMS, deposit=ETHER, peer_deposit=1))
    anvil.mine()
    chain = await open_mine()
    await asyncio.wait_for(chain.writer.open_channel(a, b, TERMS, deposit=ETHER, peer_deposit=1), 20)
    await asyncio.wait_for(chain.writer.open_channel(a, b, TERMS, deposit=ETHER, peer_deposit=1), 20)
    assert (await chain.reader.channel(channel_id(a, b, TERMS))).phase is ChannelPhase.OPENING
    assert sent_by_me(anvil) == 1
