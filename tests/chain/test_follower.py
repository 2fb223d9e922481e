import asyncio
import contextlib

import pytest
from tests.chain.test_task_life import register, request
from tests.support.anvil import account, caught_up, eventually

from veilpod.chain import follower as follower_module
from veilpod.core.entities import Role, TaskPhase
from veilpod.errors import ChainUnavailable

pytestmark = pytest.mark.chain


class Listener:
    """Somebody who takes hints, and may stop at any of them."""

    def __init__(self, chain):
        self.heard = []
        self._task = asyncio.create_task(self._listen(chain))

    async def _listen(self, chain):
        async for event in chain.reader.events():
            self.heard.append((event.name, event.subject))

    async def stop(self):
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


@pytest.fixture
async def listen():
    listeners = []

    def begin(chain):
        listeners.append(Listener(chain))
        return listeners[-1]

    yield begin
    for listener in listeners:
        await listener.stop()


async def test_every_event_is_hinted_at_with_its_subject(anvil, open_chain, listen):
    chain = await open_chain(1)
    listener = listen(chain)
    node = await register(chain, anvil.addresses, roles=Role.COMPUTE, capacity=1)
    _, task = await request(chain, servers=1)
    await eventually(lambda: ("Requested", task) in listener.heard)
    assert ("NodeRegistered", node.to_bytes(4, "big")) in listener.heard


async def test_what_happened_while_nobody_listened_is_hinted_at_later(anvil, open_chain, listen, monkeypatch):
    monkeypatch.setattr(follower_module, "_STEP", 3)
    first = await open_chain(1, state="one")
    listener = listen(first)
    _, seen = await request(first, servers=1, salt=b"seen")
    await eventually(lambda: ("Requested", seen) in listener.heard)
    await listener.stop()
    await first.close()

    other = await open_chain(2)
    missed = [(await request(other, servers=1, salt=bytes([number])))[1] for number in range(5)]
    anvil.mine(10)
    again = await open_chain(1, state="one")
    listener = listen(again)
    await eventually(lambda: {("Requested", task) for task in missed} <= set(listener.heard))


async def test_an_event_that_was_not_finished_with_is_hinted_at_again(anvil, open_chain, listen):
    chain = await open_chain(1, state="one")
    events = chain.reader.events()
    _, task = await request(chain, servers=1)
    async with asyncio.timeout(20):
        while (await anext(events)).name != "Requested":
            pass
    await events.aclose()  # died while it handled this one
    await chain.close()
    listener = listen(await open_chain(1, state="one"))
    await eventually(lambda: ("Requested", task) in listener.heard)


@pytest.mark.parametrize("depth", [1, 2, 3])
async def test_a_reorganisation_is_replayed_from_the_fork(anvil, open_chain, listen, depth):
    chain = await open_chain(1, state="one")
    writer = await open_chain(2)
    listener = listen(chain)
    _, task = await request(writer, servers=1)
    await eventually(lambda: ("Requested", task) in listener.heard)
    assert (await chain.reader.task(task)).phase is TaskPhase.REQUESTED
    if depth > 1:
        anvil.mine(depth - 1)
    await caught_up(chain, anvil)

    # Another history: the request is gone, and comes back in another block.
    anvil.rpc("evm_setAutomine", False)
    raw = anvil.rpc("eth_getRawTransactionByHash", writer.history()[-1].hash)
    listener.heard.clear()
    anvil.rpc("anvil_reorg", depth, [])
    anvil.rpc("anvil_dropAllTransactions")
    anvil.mine(depth + 1)

    async def phase():
        try:
            return (await chain.reader.task(task)).phase
        except ChainUnavailable:
            return None

    async def forgotten():
        return await phase() is TaskPhase.NONE

    await eventually(forgotten)
    assert chain.reorgs >= 1
    anvil.rpc("eth_sendRawTransaction", raw)
    anvil.mine()
    await eventually(lambda: ("Requested", task) in listener.heard)
    assert await phase() is TaskPhase.REQUESTED


async def _view(chain, tasks, node):
    """What the chain is for an operator: tasks, who is on it, and what is locked."""
    return (
        [await chain.reader.task(task) for task in tasks],
        await chain.reader.tasks_of(node),
        await chain.reader.directory(Role.ANY),
        await chain.reader.stake_of(account(1).address),
    )


@pytest.mark.parametrize("confirmations", [0, 3])
@pytest.mark.parametrize("depth", [1, 2, 3])
async def test_after_a_reorganisation_everybody_sees_the_same(anvil, open_chain, listen, depth, confirmations):
    """One follower stays, one is away, one is new. One transaction is gone, some moved, one is in the new blocks only."""
    before = anvil.rpc("evm_snapshot")
    stranger = await open_chain(2)
    _, strange = await request(stranger, servers=1)
    extra = anvil.rpc("eth_getRawTransactionByHash", stranger.history()[-1].hash)
    await stranger.close()
    anvil.rpc("evm_revert", before)

    server, requester = await open_chain(1), await open_chain(0)
    stays = await open_chain(state="stays", depth=confirmations)
    away = await open_chain(state="away", depth=confirmations)
    heard, heard_away = listen(stays), listen(away)
    node = await register(server, anvil.addresses, roles=Role.COMPUTE, capacity=9)
    await server.writer.deposit_stake(10**18)
    tasks = [(await request(requester, servers=1, salt=bytes([number])))[1] for number in range(3)]
    await requester.writer.assign(tasks[0], [node], [])
    anvil.mine(confirmations)
    await eventually(lambda: ("Assigned", tasks[0]) in heard.heard and ("Assigned", tasks[0]) in heard_away.heard)
    assert await stays.reader.tasks_of(node) == (tasks[0],)
    await heard_away.stop()
    for chain in (away, requester):  # the requester would send again what vanished: a test of its own
        await chain.close()
    anvil.rpc("evm_setAutomine", False)
    if confirmations:
        anvil.rpc("anvil_rollback", confirmations)
    moved = [anvil.rpc("eth_getRawTransactionByHash", line.hash) for line in requester.history()[-depth:-1]]
    heard.heard.clear()
    anvil.rpc("anvil_reorg", depth, [[extra, 0], *([raw, depth - 1] for raw in moved)])
    anvil.rpc("anvil_dropAllTransactions")
    anvil.mine(confirmations + 1)

    new, away = await open_chain(state="new", depth=confirmations), await open_chain(state="away", depth=confirmations)
    told = listen(away)
    for chain in (stays, away):
        await caught_up(chain, anvil)
    truth = await _view(new, [*tasks, strange], node)
    assert truth == await _view(stays, [*tasks, strange], node) == await _view(away, [*tasks, strange], node)
    assert [task.phase for task in truth[0]] == [TaskPhase.REQUESTED] * 4
    assert truth[1] == ()
    in_new_blocks = {("Requested", task) for task in (strange, *tasks[len(tasks) - len(moved) :])}
    await eventually(lambda: in_new_blocks <= set(heard.heard) and in_new_blocks <= set(told.heard))


async def test_a_reorganisation_above_what_is_confirmed_is_nobodys_business(anvil, open_chain, listen):
    chain, writer = await open_chain(state="s", depth=3), await open_chain(2)
    _, task = await request(writer, servers=1)
    anvil.mine(3)
    await caught_up(chain, anvil)
    for depth in (1, 2, 3):
        anvil.rpc("anvil_reorg", depth, [])
        anvil.mine()
        await caught_up(chain, anvil)
        assert (await chain.reader.task(task)).phase is TaskPhase.REQUESTED
    assert chain.reorgs == 0


async def test_only_confirmed_blocks_are_read(anvil, open_chain, listen):
    anvil.mine(3)
    chain = await open_chain(1, depth=2)
    listener = listen(chain)
    writer = await open_chain(2)
    _, task = await request(writer, servers=1)
    anvil.mine()
    await caught_up(chain, anvil)
    assert (await chain.reader.task(task)).phase is TaskPhase.NONE
    assert ("Requested", task) not in listener.heard
    anvil.mine()
    await eventually(lambda: ("Requested", task) in listener.heard)
    assert (await chain.reader.task(task)).phase is TaskPhase.REQUESTED


async def test_the_chain_is_followed_by_one_at_a_time(anvil, open_chain, listen):
    chain = await open_chain(1)
    events = chain.reader.events()
    pending = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError):
        await anext(chain.reader.events())
    pending.cancel()
    await asyncio.gather(pending, return_exceptions=True)


async def test_the_head_grows_old_when_no_block_comes(anvil, open_chain):
    now = [100.0]
    chain = await open_chain(1, clock=lambda: now[0])
    now[0] += 60
    assert chain.head_age == 60
    anvil.mine()
    await eventually(lambda: chain.head_age == 0)
    assert chain.head_block == int(anvil.rpc("eth_blockNumber"), 16)


async def test_tasks_of_a_node_are_the_living_and_those_of_the_last_day(anvil, open_chain):
    chain, requester = await open_chain(1), await open_chain(0)
    node = await register(chain, anvil.addresses, roles=Role.COMPUTE, capacity=4)
    await chain.writer.deposit_stake(10**18)
    tasks = []
    for number in range(2):
        _, task = await request(requester, servers=1, salt=bytes([number]))
        await requester.writer.assign(task, [node], [])
        tasks.append(task)
    await caught_up(chain, anvil)
    assert await chain.reader.tasks_of(node) == tuple(tasks)
    assert await chain.reader.tasks_of(node + 1) == ()
    await chain.writer.report(tasks[0], 0)
    await requester.writer.refund(tasks[0])
    await caught_up(chain, anvil)
    assert await chain.reader.tasks_of(node) == tuple(tasks)
    anvil.advance(86_500)
    await caught_up(chain, anvil)
    assert await chain.reader.tasks_of(node) == (tasks[1],)
    # A new reader finds the same without having seen any of it.
    assert await (await open_chain(2)).reader.tasks_of(node) == (tasks[1],)
