"""What a SandboxClass's status says, and what an operator waits for before it offers anything."""

import types
from typing import Any

import pytest
from tests.support.fake_cluster import FakeCluster
from tests.support.fences import NAMESPACE, put_fences

from veilpod.control import classes
from veilpod.control.metrics import Metrics
from veilpod.core.kinds import ADMISSION_POLICIES, RUNTIME_CLASSES, SANDBOX_CLASSES
from veilpod.errors import ClusterUnavailable


def context_of(cluster: FakeCluster) -> Any:
    config = types.SimpleNamespace(sandbox_namespace=NAMESPACE)
    return types.SimpleNamespace(cluster=cluster, config=config, clock=lambda: 1000.0, metrics=Metrics())


def put_class(cluster: FakeCluster, **spec: Any) -> None:
    cluster.put(SANDBOX_CLASSES, {"metadata": {"name": "own"}, "spec": {"tier": "T0"} | spec})


def ready(cluster: FakeCluster) -> tuple[str, str]:
    [condition] = cluster.objects[SANDBOX_CLASSES.plural, "", "own"]["status"]["conditions"]
    assert condition["type"] == "Ready"
    return condition["status"], condition["reason"]


async def test_a_class_is_ready_once_its_runtime_is_there_and_not_when_it_goes() -> None:
    cluster = FakeCluster()
    put_class(cluster, tier="T1", runtimeClassName="gvisor")
    await classes.look(context_of(cluster))
    assert ready(cluster) == ("False", "RuntimeClassMissing")
    cluster.put(RUNTIME_CLASSES, {"metadata": {"name": "gvisor"}, "handler": "runsc"})
    await classes.look(context_of(cluster))
    assert ready(cluster) == ("True", "Offered")
    del cluster.objects[RUNTIME_CLASSES.plural, "", "gvisor"]
    await classes.look(context_of(cluster))
    assert ready(cluster) == ("False", "RuntimeClassMissing")


@pytest.mark.parametrize(
    ("spec", "reason"),
    [({"canaries": ["127.0.0.1:80"]}, "ImpossibleCanary"), ({"terminationGracePeriodSeconds": 60}, "InvalidSandboxClass")],
    ids=["canary", "grace"],
)
async def test_a_class_that_no_sandbox_can_have_says_what_to_correct(spec: dict[str, Any], reason: str) -> None:
    cluster = FakeCluster()
    put_class(cluster, **spec)
    await classes.look(context_of(cluster))
    assert ready(cluster) == ("False", reason)


async def test_a_status_that_is_true_is_not_written_again() -> None:
    cluster = FakeCluster()
    put_class(cluster)
    await classes.look(context_of(cluster))
    written = cluster.writes["SandboxClass"]
    await classes.look(context_of(cluster))  # nor by a stranger's operator, which sees the same
    assert cluster.writes["SandboxClass"] == written


async def test_nothing_is_offered_before_there_is_a_class_and_its_fences_stand() -> None:
    cluster = FakeCluster()
    with pytest.raises(ClusterUnavailable, match="no SandboxClass"):
        await classes.wait_for_fences(context_of(cluster))
    put_class(cluster)
    put_fences(cluster, NAMESPACE)
    await classes.wait_for_fences(context_of(cluster))
    kept = cluster.objects.pop((ADMISSION_POLICIES.plural, "", "veilpod-sandbox-pods"))
    with pytest.raises(ClusterUnavailable, match="veilpod-sandbox-pods; what to do:"):
        await classes.wait_for_fences(context_of(cluster))
    assert kept
    put_class(cluster, denyHostAccess=False)
    await classes.wait_for_fences(context_of(cluster))
