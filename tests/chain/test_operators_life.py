"""One requester and three computing servers live through whole tasks: real operators and a real chain, clusters in memory."""

import asyncio

import pytest
from tests.support.fake_cluster import true_conditions
from tests.support.operators import World, world

from veilpod.core.kinds import ADMISSION_POLICIES, COMPUTE_TASKS, PODS, STATE_CHANNELS, TASK_ASSIGNMENTS

pytestmark = pytest.mark.chain


async def all_settled(w: World, timeout: float = 40.0) -> None:
    """Every server's objects say so, and no pod is left."""
    for server in w.servers:
        await w.until(lambda server=server: all("Settled" in true_conditions(a) for a in server.objects(TASK_ASSIGNMENTS)), timeout)
        assert server.objects(PODS) == []


def failure(w: World) -> str:
    return w.task()["status"]["failure"]["code"]


async def test_a_task_completes_pays_and_leaves_nothing_behind(anvil, tmp_path):
    async with world(anvil, tmp_path) as w:
        w.apply()
        await w.until_true("Settled")
        task = w.task()
        assert task["status"]["phase"] == "Settled"
        assert task["status"]["result"]["size"] == 5000
        assert "Failed" not in true_conditions(task)
        await all_settled(w)
        for server in w.servers:
            assert len(server.kubelet.created) == 1
            for body in server.objects(STATE_CHANNELS):
                assert body["status"]["updates"] >= 1, "transfers were paid through the channel"
            assert server.cluster.writes["TaskAssignment"] <= 12


async def test_a_task_whose_data_nobody_registered_locks_nothing(anvil, tmp_path):
    async with world(anvil, tmp_path) as w:
        w.apply(inputs=[{"dataset": "nowhere", "to": {"role": "hub"}, "path": "x"}])
        await w.until(lambda: w.task().get("status", {}).get("conditions"))
        (requested,) = [c for c in w.task()["status"]["conditions"] if c["type"] == "Requested"]
        assert (requested["status"], requested["reason"]) == ("False", "DatasetNotFound")
        assert "taskId" not in w.task()["status"]
        w.requester.cluster.ask_deletion(COMPUTE_TASKS, "job", namespace="requester")
        await w.until(lambda: w.requester.object(COMPUTE_TASKS, "job") is None)


async def test_a_failing_hub_ends_the_task_refunded_with_its_code(anvil, tmp_path):
    async with world(anvil, tmp_path) as w:
        w.network.fail[0] = "ProgramFailed"
        w.apply()
        await w.until_true("Settled")
        assert w.task()["status"]["phase"] == "Failed"
        assert failure(w) == "ProgramFailed"
        await all_settled(w)


async def test_losing_the_quorum_stops_the_hub_that_would_wait_in_vain(anvil, tmp_path):
    async with world(anvil, tmp_path) as w:
        w.network.fail[2] = "InputTimeout"
        w.network.may_exit.clear()
        w.apply()
        await w.until_true("Settled")
        assert failure(w) == "InputTimeout"
        await all_settled(w)


async def test_deleting_a_running_task_tears_everything_down_before_it_goes(anvil, tmp_path):
    async with world(anvil, tmp_path) as w:
        w.network.may_exit.clear()
        w.apply()
        await w.until_true("InputsVerified")
        w.requester.cluster.ask_deletion(COMPUTE_TASKS, "job", namespace="requester")
        await w.until(lambda: w.requester.object(COMPUTE_TASKS, "job") is None)
        await all_settled(w)


async def test_a_sandbox_evicted_before_its_statement_is_made_again(anvil, tmp_path):
    async with world(anvil, tmp_path) as w:
        server = w.servers[0]
        w.apply()
        await w.until(lambda: server.objects(PODS))
        pod = server.objects(PODS)[0]["metadata"]
        await server.cluster.delete(PODS, pod["name"], uid=pod["uid"], namespace=pod["namespace"])
        await w.until_true("Settled")
        assert w.task()["status"]["phase"] == "Settled"
        assert len(server.kubelet.created) == 2
        await all_settled(w)


async def test_a_fence_that_is_taken_away_ends_the_sandboxes_behind_it(anvil, tmp_path):
    async with world(anvil, tmp_path) as w:
        w.network.may_exit.clear()
        w.apply()
        await w.until_true("InputsVerified")
        server = w.servers[1]
        del server.cluster.objects[ADMISSION_POLICIES.plural, "", "veilpod-sandbox-access"]
        await server.resync()
        await w.until(lambda: server.objects(TASK_ASSIGNMENTS)[0]["status"].get("failure"))
        assert server.objects(TASK_ASSIGNMENTS)[0]["status"]["failure"]["code"] == "PolicyMissing"
        await w.until_true("Settled")
        await all_settled(w)


@pytest.mark.parametrize("reached", ["Scheduled", "SandboxReady", "KeyPublished", "InputsVerified", "ResultDelivered"])
async def test_every_operator_may_be_killed_at_any_stage(anvil, tmp_path, reached):
    async with world(anvil, tmp_path) as w:
        if reached == "InputsVerified":
            w.network.may_exit.clear()
        w.apply()
        await w.until_true(reached)
        releases = [w.requester, *w.servers]
        await asyncio.gather(*(release.stop() for release in releases))
        w.network.may_exit.set()
        for release in releases:
            await release.start()
        await w.until_true("Settled", timeout=60)
        assert w.task()["status"]["phase"] == "Settled"
        await all_settled(w)
        for server in w.servers:
            assert len(server.kubelet.created) == 1, "never two sandboxes"
