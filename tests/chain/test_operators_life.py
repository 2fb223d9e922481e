"""One requester and three computing servers live through whole tasks: real operators and a real chain, clusters in memory."""

import time

import pytest
from tests.support.fake_cluster import true_conditions
from tests.support.operators import world

from veilpod.core.kinds import PODS, STATE_CHANNELS, TASK_ASSIGNMENTS

pytestmark = pytest.mark.chain


async def test_a_task_completes_pays_and_leaves_nothing_behind(anvil, tmp_path):
    async with world(anvil, tmp_path) as w:
        started = time.monotonic()
        w.apply()
        await w.until_true("Settled")
        took = time.monotonic() - started
        task = w.task()
        assert task["status"]["phase"] == "Settled"
        assert task["status"]["result"]["size"] == 5000
        assert "Failed" not in true_conditions(task)
        for server in w.servers:
            await w.until(lambda server=server: all("Settled" in true_conditions(a) for a in server.objects(TASK_ASSIGNMENTS)))
            assert server.objects(PODS) == []
            assert len(server.kubelet.created) == 1
            for body in server.objects(STATE_CHANNELS):
                assert body["status"]["updates"] >= 1, "transfers were paid through the channel"
        assert took < 20
