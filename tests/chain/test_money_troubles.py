"""An empty account, and a second operator with the same key: both are told where people look, and both heal."""

import dataclasses

import pytest
from tests.chain.test_operators_life import all_settled
from tests.support.fake_cluster import FakeCluster
from tests.support.operators import world

from veilpod.control.nodes import ALONE_SECONDS
from veilpod.core.kinds import COMPUTE_TASKS, STATE_CHANNELS

pytestmark = pytest.mark.chain


def reasons(bodies, kind):
    """Reasons of one condition that is not True."""
    found = [c for body in bodies for c in body.get("status", {}).get("conditions", []) if c["type"] == kind and c["status"] != "True"]
    return [condition["reason"] for condition in found]


def set_balance(anvil, release, wei):
    before = int(anvil.rpc("eth_getBalance", release.key.address, "latest"), 16)
    anvil.rpc("anvil_setBalance", release.key.address, hex(wei))
    return before


async def test_servers_without_coin_say_so_on_their_channels_and_go_on_when_they_are_funded(anvil, tmp_path):
    async with world(anvil, tmp_path) as w:
        before = [set_balance(anvil, server, 10**14) for server in w.servers]
        w.apply()
        await w.until(lambda: any("InsufficientFunds" in reasons(s.objects(STATE_CHANNELS), "ChannelsOpen") for s in w.servers))
        (message, *_) = {
            c["message"]
            for server in w.servers
            for body in server.objects(STATE_CHANNELS)
            for c in body.get("status", {}).get("conditions", [])
            if c["reason"] == "InsufficientFunds"
        }
        assert "too little coin" in message
        assert any(server.key.address in message for server in w.servers)
        for server, wei in zip(w.servers, before, strict=True):
            set_balance(anvil, server, wei)
        await w.until_true("Settled", timeout=90)
        assert w.task()["status"]["phase"] == "Settled"
        await all_settled(w)
        for server in w.servers:
            assert "InsufficientFunds" not in reasons(server.objects(STATE_CHANNELS), "ChannelsOpen")


async def test_a_requester_without_coin_for_gas_says_so_and_goes_on_when_it_is_funded(anvil, tmp_path):
    async with world(anvil, tmp_path) as w:
        before = set_balance(anvil, w.requester, 5 * 10**16 + 10**9)  # the budget, and no gas
        w.apply()
        await w.until(lambda: "InsufficientFunds" in reasons([w.requester.object(COMPUTE_TASKS, "job")], "Requested"))
        assert "taskId" not in w.task()["status"]
        set_balance(anvil, w.requester, before)
        await w.until_true("Settled", timeout=90)
        await all_settled(w)


async def test_a_second_operator_with_one_key_on_another_machine_waits_and_the_first_goes_on(anvil, tmp_path):
    async with world(anvil, tmp_path) as w:
        first = w.servers[0]
        config = dataclasses.replace(first.config, state_dir=tmp_path / "another-machine")
        second = dataclasses.replace(first, config=config, cluster=FakeCluster(), operator=None, tasks=None, kubelet=None)
        for place, body in first.cluster.objects.items():  # the same fences; none of the objects that the first one made
            if place[0] not in {STATE_CHANNELS.plural, "taskassignments", "pods"}:
                second.cluster.objects[place] = body
        await second.start()
        try:
            await w.until(lambda: "KeyInUse" in (second.operator.ready() or ""))
            sent = int(anvil.rpc("eth_getTransactionCount", first.key.address, "latest"), 16)
            w.apply()
            await w.until_true("Settled")
            await all_settled(w)
            assert "KeyInUse" in second.operator.ready()
            assert not second.operator._chain.history(), "it has sent nothing"
            assert first.operator._chain.foreign_transactions == 0
            assert int(anvil.rpc("eth_getTransactionCount", first.key.address, "latest"), 16) > sent

            # The first is gone for good, and its state directory with it.
            await first.stop()
            await w.skip(ALONE_SECONDS)
            await w.until(lambda: second.operator.ready() is None)
        finally:
            await second.stop()


async def test_an_operator_that_comes_back_with_its_state_directory_waits_for_nobody(anvil, tmp_path):
    async with world(anvil, tmp_path) as w:
        server = w.servers[0]
        await server.stop()
        await server.start()
        told = []
        await w.until(lambda: told.append(server.operator.ready()) or told[-1] is None)
        assert not [line for line in told if line and "KeyInUse" in line]
