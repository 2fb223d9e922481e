"""What a pod's status proves."""

import copy

import pytest

from veilpod.core.task.pods import FINALIZER, INTENT_ANNOTATION, image_digest, read_pod

DIGEST = "sha256:" + "a" * 64
POD = {
    "metadata": {
        "name": "sb",
        "uid": "u",
        "labels": {"veilpod.dev/incarnation": "2"},
        "annotations": {INTENT_ANNOTATION: "n"},
        "finalizers": [FINALIZER],
    },
    "spec": {
        "nodeName": "node",
        "initContainers": [{"name": "agent", "image": f"r/agent@{DIGEST}"}, {"name": "program", "image": f"r/p@sha256:{'b' * 64}"}],
        "containers": [{"name": "seal", "image": f"r/agent@{DIGEST}"}],
    },
    "status": {
        "phase": "Pending",
        "podIP": "10.0.0.1",
        "initContainerStatuses": [
            {"name": "agent", "state": {"running": {}}, "restartCount": 0, "imageID": f"r/agent@{DIGEST}", "containerID": "c"},
            {"name": "program", "state": {"waiting": {}}, "restartCount": 0, "imageID": ""},
        ],
        "containerStatuses": [{"name": "seal", "state": {"waiting": {}}, "restartCount": 0, "imageID": ""}],
    },
}


def pod(change=lambda body: None):
    body = copy.deepcopy(POD)
    change(body)
    return body


def read(change=lambda body: None, nonce="n", now=0.0):
    return read_pod(pod(change), nonce=nonce, now=now)


def deleted(body, grace=10):
    body["metadata"] |= {"deletionTimestamp": "1970-01-01T00:00:10Z", "deletionGracePeriodSeconds": grace}


def dead(body):
    body["status"]["initContainerStatuses"][0]["state"] = {"terminated": {"exitCode": 0}}


def test_a_running_sandbox_of_ours() -> None:
    seen = read()
    assert (seen.intended, seen.incarnation, seen.images_match, seen.has_address) == (True, 2, True, True)
    assert not any((seen.deleting, seen.terminated, seen.kubelet_done, seen.restarted, seen.ended))


def test_a_pod_with_another_nonce_is_not_ours_whatever_its_name() -> None:
    assert not read(nonce="other").intended
    assert not read(nonce="").intended


def test_dead_are_containers_that_ended_or_never_began() -> None:
    assert read(dead).terminated
    assert not read().terminated

    def began(body):
        dead(body)
        body["status"]["containerStatuses"][0]["containerID"] = "c"  # waiting to be restarted: it lived

    assert not read(began).terminated


def test_grace_zero_counts_only_in_a_deletion() -> None:
    assert read(lambda body: deleted(body, 0)).kubelet_done
    assert not read(lambda body: deleted(body)).kubelet_done
    assert not read(lambda body: body["metadata"].update(deletionGracePeriodSeconds=0)).kubelet_done


def test_a_pod_that_no_node_took_has_nothing_to_die() -> None:
    def unscheduled(body):
        body["spec"].pop("nodeName")
        body["status"] = {"phase": "Pending"}

    def unreported(body):
        body["status"] = {"phase": "Pending"}

    assert read(unscheduled).terminated
    assert not read(unreported).terminated


def test_a_restart_is_seen_and_so_is_a_lost_node() -> None:
    assert read(lambda body: body["status"]["initContainerStatuses"][0].update(restartCount=1)).restarted
    assert read(deleted, now=1000).node_lost
    assert not read(deleted, now=30).node_lost


def test_another_image_than_named_is_a_mismatch_and_silence_is_no_answer() -> None:
    assert read(lambda body: body["status"]["initContainerStatuses"][0].update(imageID=f"r/x@sha256:{'c' * 64}")).images_match is False
    assert read(lambda body: body["status"]["initContainerStatuses"][0].update(imageID="")).images_match is None


def test_an_image_digest_is_read_or_empty() -> None:
    assert image_digest(f"r/agent@{DIGEST}") == DIGEST
    assert image_digest("r/agent:latest") == ""
    assert image_digest("sha256:short") == ""


@pytest.mark.parametrize("which", ["state", "lastState"])
def test_an_agent_that_reached_what_it_must_not_is_a_refusal_and_one_that_reached_nobody_is_not(which):
    def ended_with(code):
        def change(body):
            agent = next(item for item in body["status"]["initContainerStatuses"] if item["name"] == "agent")
            agent[which] = {"terminated": {"exitCode": code}}

        return change

    assert read(ended_with(20)).refused
    assert not read(ended_with(21)).refused
    assert not read().refused
    assert [read(ended_with(code)).unproved for code in (20, 21, 23)] == [False, True, True]


def test_what_keeps_a_container_from_beginning_is_told_in_words_of_ours() -> None:
    def waiting(reason):
        def change(body):
            body["status"]["initContainerStatuses"][1]["state"] = {"waiting": {"reason": reason, "message": "10.0.0.7 said no"}}

        return change

    def unschedulable(body):
        body["status"] = {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}

    assert read().stuck == ""
    assert read(waiting("PodInitializing")).stuck == ""
    assert read(waiting("ImagePullBackOff")).stuck == "ImageUnavailable"
    assert read(waiting("CreateContainerConfigError")).stuck == "ContainerRefused"
    assert read(unschedulable).stuck == "Unschedulable"
