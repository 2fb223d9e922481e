import asyncio
import dataclasses

import pytest
from tests.chain.test_task_life import register, request
from tests.support.anvil import CHAIN_ID, account, eventually, running, start

from veilpod.chain import connect, reader, rpc
from veilpod.chain.contracts import contract
from veilpod.core import identity
from veilpod.core.entities import Role
from veilpod.core.ids import Address, TaskId
from veilpod.errors import ChainUnavailable, InvalidInput

pytestmark = pytest.mark.chain


async def refused(open_chain, **options):
    with pytest.raises(InvalidInput) as caught:
        await open_chain(**options)
    return caught.value.reason


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(rpc, "CALL_TIMEOUT", 0.5)
    monkeypatch.setattr(rpc, "CONNECT_TIMEOUT", 0.5)


async def test_another_chain_is_refused(anvil, open_chain, tmp_path):
    with pytest.raises(InvalidInput) as caught:
        await connect(anvil.url, chain_id=1, addresses=anvil.addresses, state_dir=tmp_path)
    assert caught.value.reason == "WrongChain"


@pytest.mark.parametrize("name", ["registry", "scheduler", "channels"])
async def test_a_contract_that_is_not_there_is_refused(anvil, open_chain, name):
    wrong = dataclasses.replace(anvil.addresses, **{name: Address("0x" + "12" * 20)})
    assert await refused(open_chain, addresses=wrong, state="s") == "ContractMissing"


async def test_another_deployment_block_is_refused(anvil, open_chain):
    wrong = dataclasses.replace(anvil.addresses, since_hash="0x" + "00" * 32)
    assert await refused(open_chain, addresses=wrong, state="s") == "ChainReplaced"


@pytest.mark.parametrize("scheme", ["http", "ws"])
async def test_an_rpc_that_is_down_is_unavailable_and_never_empty(anvil, open_chain, hasty, scheme):
    url = anvil.url if scheme == "http" else anvil.ws_url
    chain = await open_chain(1, url=url)
    assert await chain.reader.tasks_of(1) == ()
    anvil.stop()
    await eventually(lambda: not chain.reachable)
    for question in (
        lambda: chain.reader.task(TaskId(bytes(32))),
        lambda: chain.reader.tasks_of(1),
        lambda: chain.reader.resource(bytes(32)),
        lambda: chain.reader.balance(account(1).address),
        lambda: chain.writer.deposit_stake(1),
        lambda: chain.reader.stake_of(account(1).address),
        lambda: chain.reader.resources_named("x"),
    ):
        with pytest.raises(ChainUnavailable):
            await question()
    with pytest.raises(ChainUnavailable):
        await open_chain(2, url=url)


@pytest.mark.parametrize("scheme", ["http", "ws"])
async def test_an_rpc_that_hangs_is_unavailable_until_it_answers_again(anvil, open_chain, hasty, scheme):
    chain = await open_chain(1, url=anvil.url if scheme == "http" else anvil.ws_url)
    with anvil.frozen(), pytest.raises(ChainUnavailable):
        await chain.reader.balance(account(1).address)

    async def answered():
        try:
            return await chain.reader.balance(account(1).address)
        except ChainUnavailable:
            return 0

    await eventually(answered)
    await chain.writer.deposit_stake(5)
    assert await chain.reader.stake_of(account(1).address) == (5, 0)
    assert chain.failure is None


async def test_an_emptied_chain_behind_the_same_url_is_noticed(anvil, open_chain, hasty):
    chain = await open_chain(1)
    await chain.writer.deposit_stake(5)
    anvil.stop()
    again = start("--timestamp", "1700000000", port=anvil.port)
    try:
        await eventually(lambda: chain.failure)
        assert chain.failure.reason == "ChainReplaced"
        with pytest.raises(InvalidInput):
            await chain.reader.stake_of(account(1).address)
        # A new deployment at the same addresses does not make it the same chain.
        assert await again.deploy_contracts() != anvil.addresses
        assert again.addresses.registry == anvil.addresses.registry
        with pytest.raises(InvalidInput):
            await chain.reader.stake_of(account(1).address)
        await chain.close()
        bare = dataclasses.replace(anvil.addresses, since=0, since_hash="")
        assert await refused(open_chain, index=1, addresses=bare) == "ChainReplaced"
        # Whoever means it moves the state away.
        await open_chain(1, addresses=again.addresses, state="fresh")
    finally:
        again.stop()


async def test_everything_works_over_a_websocket(anvil, open_chain):
    chain = await open_chain(1, url=anvil.ws_url)
    node = await register(chain, anvil.addresses, roles=Role.COMPUTE, capacity=1)
    spec, task = await request(chain, servers=1)
    assert (await chain.reader.task(task)).spec == spec
    assert [found.id for found in await chain.reader.directory(Role.COMPUTE)] == [node]


async def test_a_chain_of_its_own_needs_a_url_that_says_how(anvil, open_chain):
    assert await refused(open_chain, url="127.0.0.1:8545", state="s") == "InvalidRpcUrl"


async def test_a_reader_has_no_writer(anvil, open_chain):
    chain = await open_chain(state="s")
    with pytest.raises(InvalidInput):
        _ = chain.writer
    assert chain.history() == ()


async def test_a_node_without_the_contracts_is_refused_before_anything_is_kept(tmp_path, anvil):
    with running() as empty:
        with pytest.raises(InvalidInput):
            await connect(empty.url, chain_id=CHAIN_ID, addresses=anvil.addresses, state_dir=tmp_path / "s")
        assert not (tmp_path / "s" / "chain.json").exists()


async def test_calls_that_are_cancelled_block_nobody(anvil, open_chain):
    chain = await open_chain(1)
    for _ in range(5):
        calls = [asyncio.ensure_future(chain.reader.balance(account(1).address)) for _ in range(30)]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        answers = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 5)
        assert all(isinstance(answer, int) for answer in answers[1::2])


async def test_a_name_that_is_no_text_is_listed_and_stops_nobody(anvil, open_chain):
    chain = await open_chain(1)
    node = await register(chain, anvil.addresses, roles=Role.RELAY, endpoint="127.0.0.1:1")
    data = contract("NodeRegistry").functions["setEndpoint"].encode(node, "@@@@").replace(b"@@@@", b"\xff\xfe\xfd\xfc")
    anvil.rpc("anvil_impersonateAccount", account(1).address)
    sent = anvil.rpc("eth_sendTransaction", {"from": account(1).address, "to": anvil.addresses.registry, "data": "0x" + data.hex()})
    await eventually(lambda: anvil.rpc("eth_getTransactionReceipt", sent))

    async def renamed():
        (found,) = await chain.reader.directory(Role.RELAY)
        return found.endpoint == "\ufffd" * 4

    await eventually(renamed)


async def test_a_directory_of_many_pages_is_read_whole(anvil, open_chain, monkeypatch):
    monkeypatch.setattr(reader, "_PAGE", 2)
    chain = await open_chain(1)
    nodes = [await register(chain, anvil.addresses, roles=Role.RELAY, endpoint=f"127.0.0.1:{n}", seed=n) for n in range(1, 6)]
    found = await chain.reader.directory(Role.RELAY)
    assert [node.id for node in found] == nodes
    for node in found:
        identity.check_proof(node, registry=anvil.addresses.registry, chain_id=CHAIN_ID)
