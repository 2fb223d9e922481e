"""A running sandbox: nobody gets in, and nobody but its node says that it is gone."""

import json
from collections.abc import Iterator

import pytest

from localcluster import waiting
from tests.e2e import fence_world
from tests.e2e.conftest import Cluster
from tests.e2e.fence_world import FINALIZER, IMAGE, OPERATOR, SANDBOXES, SECONDS, TENANT, refusal, sandbox

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def fenced(cluster_release: Cluster) -> Iterator[Cluster]:
    with fence_world.party(cluster_release) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def running(fenced: Cluster, base_image: str) -> Iterator[str]:
    fenced.kubectl("create", "--filename=-", f"--as={OPERATOR}", stdin=json.dumps(sandbox(base_image, "running")))
    fenced.kubectl("wait", "pod/running", "-n", SANDBOXES, "--for=condition=Ready", f"--timeout={SECONDS}s")
    yield "running"
    release = ("patch", "pod/running", "-n", SANDBOXES, "--type=merge", "--patch", '{"metadata":{"finalizers":null}}', f"--as={OPERATOR}")
    fenced.run("delete", "pod/running", "-n", SANDBOXES, "--wait=false")
    fenced.run(*release)


def test_nobody_gets_into_a_sandbox(fenced: Cluster, running: str):
    inside = ("-n", SANDBOXES, running)
    for command in (
        ("exec", *inside, "--", "python3"),
        ("attach", *inside),
        ("get", "--raw", f"/api/v1/namespaces/{SANDBOXES}/pods/{running}/proxy/"),
        ("debug", *inside, f"--image={IMAGE}", "--profile=restricted"),
    ):
        assert "nobody gets into a sandbox" in refusal(fenced, *command)
    forward = fenced.run("create", "--raw", f"/api/v1/namespaces/{SANDBOXES}/pods/{running}/portforward", "--filename=-", stdin="{}")
    assert "nobody gets into a sandbox" in forward.stderr


def test_a_sandbox_is_not_resized_while_it_runs(fenced: Cluster, running: str):
    patch = {"spec": {"containers": [{"name": "seal", "resources": {kind: {"cpu": "30m"} for kind in ("requests", "limits")}}]}}
    said = refusal(fenced, "patch", "pod", running, "-n", SANDBOXES, "--subresource=resize", "--patch", json.dumps(patch))
    assert "nobody gets into a sandbox" in said


def test_destruction_is_not_faked_by_force(fenced: Cluster, running: str):
    one = ("delete", "pod", running, "-n", SANDBOXES, "--force", "--grace-period=0")
    everything = ("delete", "pods", "--all", "-n", SANDBOXES, "--force", "--grace-period=0")
    for command in (one, everything, (*one, *TENANT), (*one, f"--as={OPERATOR}")):
        assert "never deleted by force" in refusal(fenced, *command)
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": running, "namespace": SANDBOXES},
        "deleteOptions": {"gracePeriodSeconds": 0},
    }
    path = f"/api/v1/namespaces/{SANDBOXES}/pods/{running}/eviction"
    assert "never evicted by force" in refusal(fenced, "create", "--raw", path, document=eviction)
    assert "deletionTimestamp" not in fenced.get("pod", running, "-n", SANDBOXES)["metadata"]


def test_destruction_is_not_faked_in_the_status(fenced: Cluster, running: str):
    pod = fenced.get("pod", running, "-n", SANDBOXES)["status"]
    ended = [item | {"state": {"terminated": {"exitCode": 0}}, "ready": False, "started": False} for item in pod["containerStatuses"]]
    for status in ({"phase": "Succeeded"}, {"containerStatuses": ended}, {"initContainerStatuses": []}, {"podIP": "198.51.100.1"}):
        patch = (
            "patch",
            "pod",
            running,
            "-n",
            SANDBOXES,
            "--subresource=status",
            "--type=merge",
            "--patch",
            json.dumps({"status": status}),
        )
        for who in ((), TENANT):
            assert "only its node says" in refusal(fenced, *patch, *who)


def test_only_the_operator_lets_the_evidence_go(fenced: Cluster, running: str):
    patch = ("patch", "pod", running, "-n", SANDBOXES, "--type=merge", "--patch", '{"metadata":{"finalizers":null}}')
    for extra in ((), TENANT, ("--subresource=status",), ("--subresource=status", *TENANT)):
        said = refusal(fenced, *patch, *extra)
        assert "takes the finalizer veilpod.dev/evidence away" in said or "only the operator of this namespace" in said
    assert fenced.get("pod", running, "-n", SANDBOXES)["metadata"]["finalizers"] == [FINALIZER]


def test_a_graceful_end_is_the_nodes_word_and_the_operators_last_act(fenced: Cluster, base_image: str):
    name = "ending"
    fenced.kubectl("create", "--filename=-", f"--as={OPERATOR}", stdin=json.dumps(sandbox(base_image, name)))
    fenced.kubectl("wait", f"pod/{name}", "-n", SANDBOXES, "--for=condition=Ready", f"--timeout={SECONDS}s")
    fenced.kubectl("delete", "pod", name, "-n", SANDBOXES, "--wait=false", f"--as={OPERATOR}")

    def destroyed() -> bool:
        pod = fenced.get("pod", name, "-n", SANDBOXES)
        states = [item["state"] for key in ("containerStatuses", "initContainerStatuses") for item in pod["status"][key]]
        return pod["metadata"].get("deletionGracePeriodSeconds") == 0 and all("terminated" in state for state in states)

    assert waiting.until(destroyed, timeout=SECONDS)
    release = ("patch", "pod", name, "-n", SANDBOXES, "--type=merge", "--patch", '{"metadata":{"finalizers":null}}')
    fenced.kubectl(*release, f"--as={OPERATOR}")
    assert waiting.until(lambda: "NotFound" in fenced.run("get", "pod", name, "-n", SANDBOXES).stderr, timeout=SECONDS)
