"""One requester and three computing servers live through whole tasks: real operators and a real chain, clusters in memory."""

import asyncio
import dataclasses

import pytest
from tests.support.fake_cluster import true_conditions
from tests.support.operators import AGENT_IMAGE, World, world

from veilpod.control import compute_view
from veilpod.core.canonical import from_hex
from veilpod.core.entities import ChannelPhase
from veilpod.core.ids import ChannelId
from veilpod.core.kinds import ADMISSION_POLICIES, COMPUTE_TASKS, PODS, SANDBOX_CLASSES, STATE_CHANNELS, TASK_ASSIGNMENTS
from veilpod.core.task.pods import image_digest

pytestmark = pytest.mark.chain


async def all_settled(w: World, timeout: float = 40.0) -> None:
    """Every server's objects say so, and no pod is left."""
    for server in w.servers:
        await w.until(lambda server=server: all("Settled" in true_conditions(a) for a in server.objects(TASK_ASSIGNMENTS)), timeout)
        assert server.objects(PODS) == []


def _waits_for_a_close(channel):
    return any((c["type"], c["reason"]) == ("Settled", "Closing") for c in channel["status"]["conditions"])


def _ending(server) -> bool:
    facts = server.operator._roles[0]._facts
    return all(facts.find(name).facts.ending_since for name in facts.names())


def shown(server, name: str, **labels: str):
    """A sample of a metric; None when there is none."""
    return server.operator._metrics.registry.get_sample_value(name, labels)


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


async def test_a_sandbox_that_lies_in_the_key_ceremony_is_named_and_the_task_refunded(anvil, tmp_path):
    async with world(anvil, tmp_path) as w:
        w.network.liar = 1
        w.apply(topology={"type": "None"})  # no channels, which would be settled by challenge an hour later
        await w.until_true("Settled")
        assert failure(w) == "CeremonyFault"
        assert w.task()["status"].get("taskKey") is None
        found = {c["type"]: c for c in w.task()["status"]["conditions"]}
        assert "server 1 (BadShare)" in found["KeyPublished"]["message"]
        await all_settled(w)
        told = [server.objects(TASK_ASSIGNMENTS) for server in w.servers]
        messages = [c["message"] for found in told for item in found for c in item["status"]["conditions"] if c["type"] == "Failed"]
        assert any("by server 1" in message for message in messages)


async def test_operators_upgraded_under_sandboxes_vouch_for_the_agents_that_run_in_them(anvil, tmp_path):
    async with world(anvil, tmp_path) as w:
        w.network.may_connect = False
        w.apply()
        await w.until(lambda: all(server.kubelet.created for server in w.servers))
        for server in w.servers:
            await server.stop()
            server.config = dataclasses.replace(server.config, images={"agent": "registry/agent@sha256:" + "b" * 64})
            await server.start()
        w.network.may_connect = True
        await w.until_true("Settled")
        assert w.task()["status"]["phase"] == "Settled"
        assert {agent.statement.agent_image for agent in w.network.agents.values()} == {image_digest(AGENT_IMAGE)}


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
        await w.until(
            lambda: server.objects(TASK_ASSIGNMENTS)[0]["status"].get("failure"), timeout=10
        )  # nobody looked, the fence is watched
        assert server.objects(TASK_ASSIGNMENTS)[0]["status"]["failure"]["code"] == "PolicyMissing"
        await w.until_true("Settled")
        await all_settled(w)


async def test_a_class_that_is_deleted_in_use_is_honoured_to_the_end_and_offered_to_nobody_else(anvil, tmp_path, monkeypatch):
    monkeypatch.setattr(compute_view, "CLASSES_SECONDS", 0)
    async with world(anvil, tmp_path) as w:
        w.network.may_exit.clear()
        w.apply()
        await w.until_true("InputsVerified")
        for server in w.servers:
            del server.cluster.objects[SANDBOX_CLASSES.plural, "", "standard"]
        for agent in w.network.agents.values():
            agent.emit("relays", {"trouble": "RelaysUnreachable"})  # it would be told the directory anew
        await w.resync()
        w.apply("late")
        await w.until_true("Failed", "late")
        refused = [
            a["status"]["failure"]["code"] for server in w.servers for a in server.objects(TASK_ASSIGNMENTS) if "failure" in a["status"]
        ]
        assert set(refused) == {"ClassNotOffered"}
        w.network.may_exit.set()
        await w.until_true("Settled", "job")
        assert w.task("job")["status"]["phase"] == "Settled"
        await all_settled(w)


def channels(w: World) -> list[dict]:
    return [body for server in w.servers for body in server.objects(STATE_CHANNELS)]


async def test_a_second_task_opens_the_channels_of_the_first_again_and_starts_from_its_deposits(anvil, tmp_path):
    async with world(anvil, tmp_path) as w:
        for name in ("first", "second"):
            w.apply(name)
            await w.until_true("Settled", name)
            await all_settled(w)
        first, second = ({c["spec"]["channelId"] for c in channels(w) if c["spec"]["session"] == session} for session in (1, 2))
        assert second, "two stars between three servers share a pair"
        assert second <= first
        for body in channels(w):
            status, spec = body["status"], body["spec"]
            assert status["epoch"] == spec["session"]
            assert status["updates"] >= 1
            assert "Settled" in true_conditions(body)
            assert int(status["balanceA"]) + int(status["balanceB"]) == 2 * int(spec["deposit"])
        shown_before = {body["metadata"]["name"]: body["status"] for body in channels(w)}
        for server in w.servers:
            await server.stop()
            await server.start()
            await server.ready()
            await server.resync()
        await w.until(lambda: all(server.operator.queue.oldest() == 0 and not server.operator.queue.depth() for server in w.servers))
        assert {body["metadata"]["name"]: body["status"] for body in channels(w)} == shown_before, "an old session stays as it ended"
        manager = await w.servers[0].operator._chain.reader.channel(ChannelId(from_hex(min(second), 32)))
        assert (manager.phase, manager.epoch) == (ChannelPhase.CLOSED, 2)


async def test_tasks_side_by_side_have_channels_of_their_own(anvil, tmp_path):
    async with world(anvil, tmp_path) as w:
        w.network.may_exit.clear()
        for name in ("one", "two"):
            w.apply(name)
        for name in ("one", "two"):
            await w.until_true("InputsVerified", name)
        assert {body["spec"]["session"] for body in channels(w)} == {1}
        assert len({body["spec"]["channelId"] for body in channels(w)}) == 4
        w.network.may_exit.set()
        for name in ("one", "two"):
            await w.until_true("Settled", name)


async def test_channels_that_wait_for_their_challenge_period_do_not_hold_up_the_next_task(anvil, tmp_path):
    async with world(anvil, tmp_path) as w:
        w.network.lose_channel_messages = True
        w.apply("first")
        await w.until_true("ResultDelivered", "first")
        w.requester.cluster.ask_deletion(COMPUTE_TASKS, "first", namespace="requester")
        await w.until(lambda: all(_ending(server) for server in w.servers))
        await w.skip(40)  # the patience for final states
        await w.until(lambda: w.requester.object(COMPUTE_TASKS, "first") is None)
        w.network.lose_channel_messages = False
        w.apply("second")
        await w.until_true("Settled", "second")
        assert {body["spec"]["session"] for body in channels(w)} == {1}


async def test_servers_do_not_lend_a_channel_to_a_second_task_while_the_first_uses_it(anvil, tmp_path):
    async with world(anvil, tmp_path) as w:
        w.network.may_exit.clear()
        w.apply("first")
        await w.until_true("InputsVerified", "first")
        await w.requester.stop()
        for attempt in (tmp_path / "requester" / "requester").glob("*.json"):
            attempt.unlink()  # a requester that has lost its disk gives out the same lane again
        await w.requester.start()
        w.apply("second")
        await w.until_true("Scheduled", "second")
        await w.until(lambda: any(len(server.objects(TASK_ASSIGNMENTS)) == 2 for server in w.servers))
        shared = {body["spec"]["channelId"] for body in channels(w)}
        w.network.may_exit.set()
        await w.until_true("Settled", "first")
        await w.until_true("Settled", "second", timeout=60)
        again = [body for body in channels(w) if body["spec"]["session"] == 2]
        assert again
        assert {body["spec"]["channelId"] for body in again} <= shared


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


async def test_peers_that_never_sign_are_settled_by_the_chain_with_the_deposits(anvil, tmp_path):
    async with world(anvil, tmp_path) as w:
        w.network.lose_channel_messages = True
        w.apply()
        await w.until_true("ResultDelivered")
        await w.until(lambda: all(_ending(server) for server in w.servers))
        await w.skip(40)  # the patience for final states
        await w.until_true("KeyRevoked")
        assert "Settled" not in true_conditions(w.task())
        for server in w.servers:
            assert "FinalStateSigned" not in true_conditions(server.objects(TASK_ASSIGNMENTS)[0])
        await w.until(lambda: all(_waits_for_a_close(channel) for s in w.servers for channel in s.objects(STATE_CHANNELS)))
        await w.skip(150)  # the patience for a late final state, which each server counts from when it saw that it may settle
        await w.until(lambda: all(c["status"]["phase"] == "Disputed" for s in w.servers for c in s.objects(STATE_CHANNELS)))
        await w.until(lambda: all(shown(s, "veilpod_challenge_window_left_seconds", window="1", answer="none") for s in w.servers))
        for server in w.servers:
            assert shown(server, "veilpod_channels", phase="Disputed") == len(server.objects(STATE_CHANNELS))
            assert shown(server, "veilpod_channel_deposits_wei") == 10**15 * len(server.objects(STATE_CHANNELS))
            assert shown(server, "veilpod_stake_wei", state="free") == 10**17
        await w.skip(3700)  # the challenge period
        await w.until_true("Settled")
        await all_settled(w)
        for server in w.servers:
            await w.until(lambda server=server: shown(server, "veilpod_channels", phase="Disputed") == 0)
            assert shown(server, "veilpod_challenge_window_left_seconds", window="1", answer="none") is None
            assert shown(server, "veilpod_gas_spent_wei_total") == sum(line.fee for line in server.operator._chain.history())
            assert 0 < shown(server, "veilpod_account_balance_wei") < 10**22


async def test_a_server_that_vanishes_before_the_key_costs_time_and_its_stake_and_nobody_elses(anvil, tmp_path):
    async with world(anvil, tmp_path) as w:
        gone = w.servers[2]
        await gone.stop()
        w.apply()
        await w.until_true("Scheduled")
        await w.skip(380)  # the others give up, early enough to report
        await w.until(lambda: all("SandboxDestroyed" in true_conditions(s.objects(TASK_ASSIGNMENTS)[0]) for s in w.servers[:2]))
        await w.skip(120)  # behind keyBy
        await w.until(lambda: "KeyRevoked" in true_conditions(w.task()))
        assert w.task()["status"]["failure"]["stage"] == "KeyPublished"
        after = await w.requester.operator._chain.reader.stake_of(gone.key.address)
        assert sum(after) == 10**17 - 10**16, "what it would have been paid"
        for server in w.servers[:2]:
            free, locked = await w.requester.operator._chain.reader.stake_of(server.key.address)
            assert (free, locked) == (10**17, 0)


async def test_a_pod_without_an_assignment_is_swept_away(anvil, tmp_path):
    async with world(anvil, tmp_path) as w:
        server = w.servers[0]
        namespace = f"{server.name}-sandboxes"
        labels = {"veilpod.dev/component": "sandbox", "veilpod.dev/assignment": "ta-nobody-0"}
        container = {"name": "agent", "image": "r/a@sha256:" + "a" * 64}
        body = {
            "metadata": {"name": "orphan", "labels": labels, "finalizers": ["veilpod.dev/evidence"]},
            "spec": {"initContainers": [container], "containers": []},
        }
        server.cluster.put(PODS, body, namespace=namespace)
        await w.until(lambda: server.objects(PODS)[0]["spec"].get("nodeName"))
        await server.resync()
        await w.until(lambda: "deletionTimestamp" in server.objects(PODS)[0]["metadata"])
        await w.until(lambda: server.objects(PODS)[0]["metadata"]["deletionGracePeriodSeconds"] == 0)
        await server.resync()
        await w.until(lambda: not server.objects(PODS))


async def test_an_assignment_that_was_removed_by_force_is_made_again(anvil, tmp_path):
    async with world(anvil, tmp_path) as w:
        w.network.may_exit.clear()
        w.apply()
        await w.until_true("InputsVerified")
        server = w.servers[0]
        name = server.objects(TASK_ASSIGNMENTS)[0]["metadata"]["name"]
        del server.cluster.objects[TASK_ASSIGNMENTS.plural, server.name, name]
        await server.resync()
        await w.until(lambda: server.objects(TASK_ASSIGNMENTS))
        w.network.may_exit.set()
        await w.until_true("Settled")
        assert w.task()["status"]["phase"] == "Settled"
        await all_settled(w)
        assert len(server.kubelet.created) == 1
