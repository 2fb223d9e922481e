"""Providers that leave out, repeat, reorder and invent, and a second endpoint that finds them out."""

import asyncio

import pytest
from tests.chain.test_follower import Listener
from tests.chain.test_task_life import ETHER, register, request
from tests.support.anvil import account, caught_up, eventually
from tests.support.lying_node import honest, provider

from veilpod.chain import witness
from veilpod.core.entities import Role, TaskPhase
from veilpod.errors import ChainUnavailable, InvalidInput

pytestmark = pytest.mark.chain
ME = account(1).address


@pytest.fixture(autouse=True)
def eager(monkeypatch):
    monkeypatch.setattr(witness, "LOOK_SECONDS", 0.05)


@pytest.fixture
async def ours(anvil):
    """Our provider: what it says is up to the test."""
    async with provider(anvil.url) as node:
        yield node


@pytest.fixture
async def second(anvil):
    """The second endpoint."""
    async with provider(anvil.url) as node:
        yield node


async def unavailable(question, text):
    """Wait until a question is refused as unavailable for this reason."""

    async def refused():
        try:
            await question()
        except ChainUnavailable as error:
            return text in str(error)
        return False

    await eventually(refused)


async def answered(question):
    async def told():
        try:
            return (await question(),)
        except ChainUnavailable:
            return None

    return (await eventually(told))[0]


def without_logs(method, params, answer):
    return [] if method == "eth_getLogs" else answer


def shuffled(method, params, answer):
    return [entry for entry in reversed(answer) for _ in range(2)] if method == "eth_getLogs" else answer


async def test_logs_twice_and_in_any_order_give_the_same_hints_and_the_same_truth(anvil, open_chain, ours):
    ours.lie = shuffled
    writer, chain, truth = await open_chain(1), await open_chain(state="lied-to", url=ours.url), await open_chain(state="truth")
    lied_to, told = Listener(chain), Listener(truth)
    node = await register(writer, anvil.addresses, roles=Role.COMPUTE, capacity=4)
    await writer.writer.deposit_stake(ETHER)
    tasks = []
    for salt in (b"1", b"2", b"3"):
        _, task = await request(writer, servers=1, salt=salt)
        await writer.writer.assign(task, [node], [])
        tasks.append(task)
    await eventually(lambda: ("Assigned", tasks[-1]) in told.heard and ("Assigned", tasks[-1]) in lied_to.heard)
    assert lied_to.heard == told.heard
    await caught_up(chain, anvil)
    assert await chain.reader.tasks_of(node) == await truth.reader.tasks_of(node) == tuple(tasks)
    for listener in (lied_to, told):
        await listener.stop()


async def test_logs_of_other_blocks_than_asked_for_are_not_believed(anvil, open_chain, ours):
    writer, chain = await open_chain(1), await open_chain(state="s", url=ours.url)
    node = await register(writer, anvil.addresses, roles=Role.COMPUTE, capacity=1)
    ours.lie = lambda method, params, answer: [e | {"blockNumber": "0xffffff"} for e in answer] if method == "eth_getLogs" else answer
    await caught_up(chain, anvil)
    with pytest.raises(ChainUnavailable):
        await chain.reader.node(node)


async def test_a_provider_that_leaves_events_out_is_found_out_and_nothing_is_missed(anvil, open_chain, ours, second):
    writer = await open_chain(1)
    chain = await open_chain(state="s", url=ours.url, cross_check_url=second.url)
    listener = Listener(chain)
    node = await register(writer, anvil.addresses, roles=Role.COMPUTE, capacity=1)
    await writer.writer.deposit_stake(ETHER)
    await eventually(lambda: listener.heard)
    ours.lie = without_logs
    _, task = await request(writer, servers=1)
    await writer.writer.assign(task, [node], [])
    await caught_up(chain, anvil)
    await unavailable(lambda: chain.reader.tasks_of(node), "differently")
    await eventually(lambda: "eth_getLogs" in (chain.disagreement or ""))
    assert chain.disagreements > 0
    assert ("Assigned", task) not in listener.heard

    ours.lie = honest
    assert await answered(lambda: chain.reader.tasks_of(node)) == (task,)
    await eventually(lambda: ("Requested", task) in listener.heard and ("Assigned", task) in listener.heard)
    await listener.stop()


async def test_without_a_second_endpoint_events_that_were_left_out_are_missed(anvil, open_chain, ours):
    """Why there is a second endpoint: a single provider's omission looks like nothing happened."""
    writer, chain = await open_chain(1), await open_chain(state="s", url=ours.url)
    node = await register(writer, anvil.addresses, roles=Role.COMPUTE, capacity=1)
    await writer.writer.deposit_stake(ETHER)
    _, task = await request(writer, servers=1)
    await writer.writer.assign(task, [node], [])
    await caught_up(chain, anvil)
    ours.lie = without_logs
    assert await chain.reader.tasks_of(node) == ()


async def test_a_provider_that_shows_an_old_state_is_found_out(anvil, open_chain, ours, second):
    writer = await open_chain(1)
    chain = await open_chain(state="s", url=ours.url, cross_check_url=second.url)
    empty = "0x" + "00" * 64

    def nothing_staked(method, params, answer):
        return empty if method == "eth_call" and len(answer) == len(empty) else answer

    ours.lie = nothing_staked
    await writer.writer.deposit_stake(ETHER)
    await caught_up(chain, anvil)
    with pytest.raises(ChainUnavailable, match="eth_call"):
        await chain.reader.stake_of(ME)
    ours.lie = lambda method, params, answer: "0x0" if method == "eth_getBalance" else answer
    with pytest.raises(ChainUnavailable, match="eth_getBalance"):
        await chain.reader.balance(ME)
    ours.lie = honest
    assert await chain.reader.stake_of(ME) == (ETHER, 0)


@pytest.mark.parametrize("depth", [0, 2])
async def test_a_provider_that_shows_another_chain_at_depth_is_found_out(anvil, open_chain, ours, second, depth):
    anvil.mine(4)
    chain = await open_chain(state="s", url=ours.url, cross_check_url=second.url, depth=depth)

    def forged(method, params, answer):
        return answer | {"hash": "0x" + "ab" * 32} if method == "eth_getBlockByNumber" else answer

    ours.lie = forged
    anvil.mine()
    await unavailable(lambda: chain.reader.stake_of(ME), "newest block")
    assert "eth_getBlockByNumber" in chain.disagreement
    ours.lie = honest
    anvil.mine()
    assert await answered(lambda: chain.reader.stake_of(ME)) == (0, 0)


async def test_blocks_that_are_kept_from_us_are_noticed_before_the_head_is_old(anvil, open_chain, ours, second):
    chain = await open_chain(state="s", url=ours.url, cross_check_url=second.url)
    stopped = anvil.rpc("eth_getBlockByNumber", "latest", False)

    def stands_still(method, params, answer):
        return stopped if method == "eth_getBlockByNumber" and params[0] == "latest" else answer

    ours.lie = stands_still
    anvil.advance(witness.WITHHELD_SECONDS + 5)
    await unavailable(lambda: chain.reader.stake_of(ME), "newest block")
    assert "does not show the newest blocks" in chain.disagreement
    ours.lie = honest
    assert await answered(lambda: chain.reader.stake_of(ME)) == (0, 0)


async def test_a_second_endpoint_that_is_a_little_late_is_waited_for(anvil, open_chain, second):
    chain = await open_chain(state="s", cross_check_url=second.url)
    before = chain.head_block
    newest = hex(before + 1)

    def late(method, params, answer):
        return None if method == "eth_getBlockByNumber" and params[0] == newest else answer

    second.lie = late
    anvil.mine()
    calls = second.asked["eth_getBlockByNumber"]
    await eventually(lambda: second.asked["eth_getBlockByNumber"] > calls + 4)
    assert (chain.head_block, chain.disagreement) == (before, None)
    assert await chain.reader.stake_of(ME) == (0, 0)  # what was confirmed before still stands
    second.lie = honest
    await eventually(lambda: chain.head_block == before + 1)


async def test_a_second_endpoint_that_falls_silent_stops_nobody_and_is_seen(anvil, open_chain, second):
    now = [1000.0]
    chain = await open_chain(1, cross_check_url=second.url, clock=lambda: now[0])
    second.silent = True
    now[0] += 90
    await chain.writer.deposit_stake(ETHER)
    assert await chain.reader.stake_of(ME) == (ETHER, 0)
    assert chain.second_silence >= 90
    assert chain.disagreement is None
    second.silent = False
    now[0] += 10
    await eventually(lambda: chain.second_silence == 0)


async def test_a_second_endpoint_that_takes_fewer_blocks_at_once_is_asked_for_fewer(anvil, open_chain, second):
    def strict(method, params, answer):
        if method == "eth_getLogs" and int(params[0]["toBlock"], 16) - int(params[0]["fromBlock"], 16) > 3:
            raise LookupError("query exceeds the range of 4 blocks")
        return answer

    second.lie = strict
    chain = await open_chain(1, cross_check_url=second.url)
    anvil.mine(20)
    node = await register(chain, anvil.addresses, roles=Role.COMPUTE, capacity=1)
    assert (await chain.reader.node(node)).proof


async def test_a_second_endpoint_of_another_chain_is_refused_at_the_start(anvil, open_chain, second):
    second.lie = lambda method, params, answer: "0x5" if method == "eth_chainId" else answer
    with pytest.raises(InvalidInput) as caught:
        await open_chain(1, cross_check_url=second.url)
    assert caught.value.reason == "WrongChain"


async def test_the_whole_adapter_works_with_two_honest_endpoints(anvil, open_chain, second):
    chain = await open_chain(1, cross_check_url=second.url, depth=1)
    mining = asyncio.create_task(_mine(anvil))
    try:
        spec, task = await asyncio.wait_for(request(chain, servers=1), 20)
        assert (await chain.reader.task(task)).phase is TaskPhase.REQUESTED
        assert (await chain.reader.task(task)).spec == spec
    finally:
        mining.cancel()
    assert chain.disagreements == 0


async def _mine(anvil):
    while True:
        await asyncio.to_thread(anvil.mine)
        await asyncio.sleep(0.1)
