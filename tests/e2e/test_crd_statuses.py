"""What a status may never claim, whoever writes it."""

import pytest

from tests.e2e.conftest import Cluster
from tests.e2e.kinds_world import ACCOUNTS, ASSIGNMENT, CHANNEL, SPEC, TASK_ID, maker

pytestmark = pytest.mark.e2e


@pytest.fixture
def make(cluster_release: Cluster, request: pytest.FixtureRequest):
    return maker(cluster_release, request)


@pytest.mark.parametrize(("kind", "spec"), [("ComputeTask", SPEC), ("TaskAssignment", ASSIGNMENT)])
def test_nothing_is_settled_before_its_sandboxes_are_destroyed(make, kind, spec):
    status = make(kind, spec)
    assert "Settled only after SandboxDestroyed" in status.patch("Settled")
    assert "Settled only after SandboxDestroyed" in status.patch("SandboxDestroyed=Unknown", "Settled")
    assert status.patch("SandboxDestroyed", "Settled") == ""


@pytest.mark.parametrize(("kind", "spec"), [("ComputeTask", SPEC), ("TaskAssignment", ASSIGNMENT)])
def test_what_was_destroyed_stays_destroyed(make, kind, spec):
    status = make(kind, spec)
    assert status.patch("SandboxDestroyed=False") == ""
    assert status.patch("SandboxDestroyed") == ""
    assert "never reverts" in status.patch("SandboxDestroyed=Unknown")


@pytest.mark.parametrize(("kind", "spec"), [("ComputeTask", SPEC), ("TaskAssignment", ASSIGNMENT)])
def test_a_condition_never_disappears_and_neither_does_a_status(make, kind, spec):
    status = make(kind, spec)
    assert status.patch("Requested", "Scheduled=False") == ""
    assert "never disappears" in status.patch("Requested")
    removed = status.cluster.run(
        "patch", *status.target, "--subresource=status", "--type=merge", "--patch", '{"status":{"conditions":null}}'
    )
    assert "never disappears" in removed.stderr
    emptied = status.cluster.run("patch", *status.target, "--subresource=status", "--type=merge", "--patch", '{"status":null}')
    assert "never removed" in emptied.stderr


def test_a_task_has_no_published_key_before_the_network_is_isolated(make):
    status = make("ComputeTask", SPEC)
    assert "only while NetworkIsolated is True" in status.patch("KeyPublished")
    assert status.patch("NetworkIsolated=False") == ""
    assert "only while NetworkIsolated is True" in status.patch("NetworkIsolated=False", "KeyPublished")
    assert status.patch("NetworkIsolated", "KeyPublished") == ""


def test_a_server_has_no_published_key_before_its_host_is_shut_out(make):
    status = make("TaskAssignment", ASSIGNMENT)
    assert "HostAccessDenied" in status.patch("NetworkIsolated", "KeyPublished")
    assert "HostAccessDenied" in status.patch("NetworkIsolated", "HostAccessDenied=Unknown", "KeyPublished")
    assert status.patch("NetworkIsolated", "HostAccessDenied", "KeyPublished") == ""


def test_a_server_whose_class_never_promised_to_shut_its_host_out_says_so_and_has_a_key(make):
    status = make("TaskAssignment", ASSIGNMENT)
    assert "NotPromised" in status.patch("NetworkIsolated", "HostAccessDenied=False=PolicyMissing", "KeyPublished")
    assert status.patch("NetworkIsolated", "HostAccessDenied=False=NotPromised", "KeyPublished") == ""


def test_a_hole_in_the_fence_can_be_reported_after_the_key_was_published(make):
    status = make("TaskAssignment", ASSIGNMENT)
    assert status.patch("NetworkIsolated", "HostAccessDenied", "KeyPublished") == ""
    assert status.patch("NetworkIsolated", "HostAccessDenied=False", "KeyPublished") == ""


def test_a_key_and_a_pod_belong_to_one_incarnation(make):
    status = make("TaskAssignment", ASSIGNMENT)
    first, second = "0x" + "11" * 32, "0x" + "22" * 32
    pod, other = "a" * 8 + "-aaaa" * 3 + "-" + "a" * 12, "b" * 8 + "-bbbb" * 3 + "-" + "b" * 12
    assert status.patch(incarnation=1, podUID=pod, keyFingerprint=first) == ""
    assert "a higher incarnation" in status.patch(keyFingerprint=second)
    assert "a higher incarnation" in status.patch(keyFingerprint=None)
    assert "a higher incarnation" in status.patch(podUID=other)
    assert "counted upwards" in status.patch(incarnation=0)
    assert status.patch(incarnation=2, podUID=other, keyFingerprint=None) == ""
    assert status.patch(keyFingerprint=second) == ""


def test_a_channels_newest_state_never_gives_way_to_an_older_one(make):
    status = make("StateChannel", CHANNEL)
    assert status.patch(epoch=1, sequence=7, balanceA="1", balanceB="2") == ""
    assert "never gives way" in status.patch(sequence=6)
    assert "never gives way" in status.patch(epoch=0, sequence=9)
    assert status.patch(epoch=2, sequence=0) == ""


def test_each_replica_counts_its_own_keys_upwards(make):
    def replicas(*seen):
        return [{"ordinal": n, "nodeId": node, "keyEpoch": epoch, "ready": "Serving", "registered": "Listed"} for n, node, epoch in seen]

    status = make("OnionRelay", {"replicas": 2})
    assert status.patch(replicas=replicas((0, 7, 3), (1, 8, 1))) == ""
    assert "counted upwards" in status.patch(replicas=replicas((0, 7, 3), (1, 8, 0)))
    assert status.patch(replicas=replicas((0, 9, 1), (1, 8, 2))) == ""  # a new pod is a new node
    assert status.patch(replicas=replicas((0, 9, 1))) == ""  # one that left
    assert "Duplicate value" in status.patch(replicas=replicas((0, 9, 1), (0, 9, 1)))


def test_a_tasks_id_and_key_are_written_once(make):
    status = make("ComputeTask", SPEC)
    assert status.patch(taskId=TASK_ID, taskKey=ACCOUNTS[0]) == ""
    assert "never changes" in status.patch(taskId="0x" + "cd" * 32)
    assert "written once" in status.patch(taskKey=ACCOUNTS[1])
