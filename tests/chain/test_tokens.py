"""Tasks whose budget, pay and channels are in an ERC-20 token: real operators and a real chain, clusters in memory."""

import pytest
from tests.support import evm
from tests.support.anvil import account
from tests.support.fake_cluster import true_conditions
from tests.support.operators import world

from veilpod.core.ids import Address
from veilpod.core.keys import checksum_address
from veilpod.core.kinds import STATE_CHANNELS

pytestmark = pytest.mark.chain

UNIT = 10**6  # the mock has six digits after the point
RICH = 1000 * UNIT
DEPLOYER = account(9).address


@pytest.fixture
def token(anvil):
    return checksum_address(bytes.fromhex(evm.mock(anvil, DEPLOYER, "Token")[2:]))


def give(anvil, token, *indexes):
    for index in indexes:
        evm.mint(anvil, DEPLOYER, token, account(index).address, RICH)


def payment(token: Address, **changes):
    payment = {"budget": "50", "perServer": "10", "perTransferMiB": "1", "channelDeposit": "5", "asset": token, "decimals": 6}
    return {"payment": payment | changes}


def reason(w, kind):
    found = {c["type"]: c for c in w.task()["status"].get("conditions", [])} if "status" in w.task() else {}
    return found[kind]["reason"] if kind in found else None


async def test_a_task_is_paid_in_a_token_from_its_budget_to_its_channels(anvil, token, tmp_path):
    give(anvil, token, 0, 1, 2, 3)
    async with world(anvil, tmp_path, assets=[token]) as w:
        reader = w.requester.operator._chain.reader
        stakes = [await reader.stake_of(server.key.address) for server in w.servers]
        w.apply(**payment(token))
        await w.until_true("Settled")
        assert w.task()["status"]["phase"] == "Settled"
        assert await reader.balance(w.requester.key.address, token) == RICH - 30 * UNIT
        holdings = [await reader.balance(server.key.address, token) for server in w.servers]
        assert sum(holdings) == 3 * RICH + 30 * UNIT, "every deposit came home"
        for scheduler_or_manager in (anvil.addresses.scheduler, anvil.addresses.channels):
            assert await reader.balance(scheduler_or_manager, token) == 0
        assert [await reader.stake_of(server.key.address) for server in w.servers] == stakes
        for server in w.servers:
            for body in server.objects(STATE_CHANNELS):
                assert body["spec"]["asset"] == token
                assert body["status"]["updates"] >= 1


async def test_a_server_is_not_paid_in_what_it_does_not_accept(anvil, token, tmp_path):
    give(anvil, token, 0, 1, 2, 3)
    async with world(anvil, tmp_path) as w:
        w.apply(**payment(token))
        await w.until_true("Settled")
        assert "Failed" in true_conditions(w.task())
        assert await w.requester.operator._chain.reader.balance(w.requester.key.address, token) == RICH, "refunded"
        assert [body for server in w.servers for body in server.objects(STATE_CHANNELS)] == []


async def test_what_is_no_token_or_not_enough_of_it_locks_nothing(anvil, token, tmp_path):
    give(anvil, token, 0)
    async with world(anvil, tmp_path, assets=[token]) as w:
        for change, why in (
            ({"asset": account(7).address}, "NotAToken"),
            ({"decimals": 7}, "InvalidAsset"),
            ({"budget": "1001"}, "InsufficientFunds"),
        ):
            w.apply(**payment(token, **change))
            await w.until(lambda why=why: reason(w, "Requested") == why)
            assert "taskId" not in w.task()["status"]


async def test_a_server_without_the_token_says_so_and_goes_on_when_it_has_some(anvil, token, tmp_path):
    give(anvil, token, 0, 1, 3)
    async with world(anvil, tmp_path, assets=[token]) as w:
        poor = w.servers[1]
        w.apply(**payment(token))
        await w.until(lambda: any("InsufficientFunds" in str(body.get("status")) for body in poor.objects(STATE_CHANNELS)))
        give(anvil, token, 2)
        await w.until_true("Settled")
        assert w.task()["status"]["phase"] == "Settled"
