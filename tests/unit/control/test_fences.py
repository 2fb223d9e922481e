"""The fences around sandboxes: what counts as standing, and how soon everybody hears that one fell."""

import asyncio
import contextlib
import types
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.support.fake_cluster import FakeCluster
from tests.support.fences import NAMESPACE, put_fences

from veilpod.control import fences
from veilpod.control.policies import observe_policies
from veilpod.core.kinds import ADMISSION_BINDINGS, ADMISSION_POLICIES, NAMESPACES, NETWORK_POLICIES, Kind
from veilpod.core.task.snapshot import Policies

Change = Callable[[FakeCluster], object]
ACCESS = "veilpod-sandbox-access"


@pytest.fixture
def cluster() -> FakeCluster:
    made = FakeCluster()
    put_fences(made, NAMESPACE)
    return made


def context_of(cluster: FakeCluster) -> Any:
    return types.SimpleNamespace(cluster=cluster, config=types.SimpleNamespace(sandbox_namespace=NAMESPACE))


def gone(kind: Kind, name: str, namespace: str = "") -> Change:
    return lambda cluster: cluster.objects.pop((kind.plural, namespace, name))


def edited(kind: Kind, name: str, namespace: str = "", **spec: Any) -> Change:
    return lambda cluster: cluster.objects[kind.plural, namespace, name]["spec"].update(spec)


def labelled(name: str, value: str) -> Change:
    return lambda cluster: cluster.objects[NAMESPACES.plural, "", NAMESPACE]["metadata"]["labels"].update({name: value})


def allow_all(cluster: FakeCluster) -> None:
    cluster.put(NETWORK_POLICIES, {"metadata": {"name": "hole"}, "spec": {"podSelector": {}, "egress": [{}]}}, namespace=NAMESPACE)


HOLES: dict[str, Change] = {
    "a network policy is gone": gone(NETWORK_POLICIES, "to-relays", NAMESPACE),
    "the denial denies less": edited(NETWORK_POLICIES, "default-deny", NAMESPACE, policyTypes=["Ingress"]),
    "the denial allows": edited(NETWORK_POLICIES, "default-deny", NAMESPACE, egress=[{}]),
    "the denial is for some pods": edited(NETWORK_POLICIES, "default-deny", NAMESPACE, podSelector={"matchLabels": {"a": "b"}}),
    "a stranger's policy allows": allow_all,
    "an admission policy is gone": gone(ADMISSION_POLICIES, ACCESS),
    "an admission policy fails open": edited(ADMISSION_POLICIES, ACCESS, failurePolicy="Ignore"),
    "an admission policy says nothing": edited(ADMISSION_POLICIES, ACCESS, validations=[]),
    "a binding is gone": gone(ADMISSION_BINDINGS, ACCESS),
    "a binding only warns": edited(ADMISSION_BINDINGS, ACCESS, validationActions=["Warn"]),
    "a binding is another policy's": edited(ADMISSION_BINDINGS, ACCESS, policyName="harmless"),
    "a binding is narrowed": edited(ADMISSION_BINDINGS, ACCESS, matchResources={"namespaceSelector": {"matchLabels": {"a": "b"}}}),
    "the namespace lost its mark": labelled("veilpod.dev/sandboxes", "false"),
    "the namespace takes privileged pods": labelled("pod-security.kubernetes.io/enforce", "privileged"),
    "the namespace is gone": gone(NAMESPACES, NAMESPACE),
}


@pytest.mark.parametrize("hole", HOLES.values(), ids=HOLES)
async def test_a_hole_is_named(cluster: FakeCluster, hole: Change) -> None:
    whole = await observe_policies(context_of(cluster), deny_host_access=True)
    assert whole.missing == ()
    hole(cluster)
    seen = await observe_policies(context_of(cluster), deny_host_access=True)
    assert len(seen.missing) == 1
    assert seen.digest != whole.digest


async def test_a_policy_that_only_denies_more_is_no_hole_but_a_change(cluster: FakeCluster) -> None:
    before = await observe_policies(context_of(cluster), deny_host_access=True)
    cluster.put(NETWORK_POLICIES, {"metadata": {"name": "more"}, "spec": {"podSelector": {}}}, namespace=NAMESPACE)
    after = await observe_policies(context_of(cluster), deny_host_access=True)
    assert after.missing == ()
    assert after.digest != before.digest


async def test_an_older_level_of_pod_security_is_a_change(cluster: FakeCluster) -> None:
    before = await observe_policies(context_of(cluster), deny_host_access=True)
    labelled("pod-security.kubernetes.io/enforce-version", "v1.22")(cluster)
    assert (await observe_policies(context_of(cluster), deny_host_access=True)).digest != before.digest


async def test_a_class_that_lets_people_in_does_not_rest_on_what_keeps_them_out(cluster: FakeCluster) -> None:
    gone(ADMISSION_POLICIES, ACCESS)(cluster)
    seen = await observe_policies(context_of(cluster), deny_host_access=False)
    assert seen == Policies(digest=seen.digest, host_access_denied=False)


@contextlib.asynccontextmanager
async def watching(cluster: FakeCluster, living: list[str]) -> AsyncIterator[asyncio.Queue[str]]:
    watched, woken = fences.Fences(context_of(cluster)), asyncio.Queue[str]()
    await watched.get(deny_host_access=True)
    watch = asyncio.create_task(watched.watch(lambda: living, woken.put_nowait))
    try:
        yield woken
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


async def test_every_assignment_with_a_sandbox_is_woken_when_a_fence_falls(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fences, "LOOK_SECONDS", 0.01)
    async with watching(cluster, ["one", "two"]) as woken:
        cluster.down = True  # nobody is woken because nobody could look
        await asyncio.sleep(0.03)
        cluster.down = False
        await asyncio.sleep(0.03)
        assert woken.empty()
        allow_all(cluster)
        async with asyncio.timeout(5):
            assert {await woken.get(), await woken.get()} == {"one", "two"}
        await asyncio.sleep(0.03)
        assert woken.empty()  # once


async def test_without_a_sandbox_nobody_looks(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fences, "LOOK_SECONDS", 0.01)
    asked: list[str] = []
    real = cluster.get

    async def counted(kind: Kind, name: str, *, namespace: str | None = None) -> dict[str, Any] | None:
        asked.append(name)
        return await real(kind, name, namespace=namespace)

    async with watching(cluster, []) as woken:
        monkeypatch.setattr(cluster, "get", counted)
        allow_all(cluster)
        await asyncio.sleep(0.05)
        assert woken.empty()
    assert asked == []


def test_a_fallen_fence_is_heard_of_within_seconds() -> None:
    assert fences.LOOK_SECONDS <= 5
