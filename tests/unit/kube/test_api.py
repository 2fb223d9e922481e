"""What the Kubernetes adapter believes, and what it does not."""

import asyncio
import json

import pytest
from tests.support.fake_apiserver import FakeApiServer
from tests.support.fake_cluster import FakeCluster

from veilpod.core.kinds import COMPUTE_TASKS, NETWORK_POLICIES, PODS
from veilpod.errors import ClusterUnavailable, InvalidInput, Refused
from veilpod.kube.api import KubeApi
from veilpod.kube.connection import Connection, from_kubeconfig

NS = "party"


@pytest.fixture
async def served():
    cluster = FakeCluster()
    async with (
        FakeApiServer(cluster).running() as server,
        KubeApi(Connection(server=f"http://127.0.0.1:{server.port}", token="secret"), timeout=2) as api,
    ):
        yield cluster, server, api


def a_pod(cluster, name="p", **metadata):
    return cluster.put(PODS, {"metadata": {"name": name, **metadata}, "spec": {}}, namespace=NS)


async def test_not_found_is_believed_only_about_the_name_that_was_asked_for(served):
    _, server, api = served
    assert await api.get(PODS, "nobody", namespace=NS) is None
    other = json.dumps({"kind": "Status", "reason": "NotFound", "details": {"name": "somebody-else"}})
    for body in ("404 page not found", other, "{}"):
        server.hiccups.append((404, body, {}))
        with pytest.raises(ClusterUnavailable):
            await api.get(PODS, "nobody", namespace=NS)


async def test_a_kind_that_is_not_served_is_no_empty_list(served):
    _, _, api = served
    with pytest.raises(ClusterUnavailable):
        await api.list_all(NETWORK_POLICIES, namespace=NS)


@pytest.mark.parametrize(
    ("status", "expected"), [(500, ClusterUnavailable), (503, ClusterUnavailable), (429, ClusterUnavailable), (401, ClusterUnavailable),
                             (403, Refused), (422, InvalidInput)],
)  # fmt: skip
async def test_every_failure_is_a_leaf_of_the_tree(served, status, expected):
    _, server, api = served
    server.hiccups.append((status, json.dumps({"message": "no", "reason": "Because"}), {"Retry-After": "7"}))
    with pytest.raises(expected) as caught:
        await api.get(PODS, "p", namespace=NS)
    if status == 429:
        assert caught.value.retry_after == 7


async def test_an_api_server_that_is_away_is_unavailable():
    async with KubeApi(Connection(server="http://127.0.0.1:1"), timeout=0.5) as api:
        with pytest.raises(ClusterUnavailable):
            await api.list_all(PODS, namespace=NS)


async def test_a_list_is_whole_although_it_comes_in_chunks(served):
    cluster, server, api = served
    for number in range(5):
        a_pod(cluster, f"p{number}", labels={"a": "b"} if number else {})
    assert len(await api.list_all(PODS, namespace=NS)) == 5
    assert len(await api.list_all(PODS, namespace=NS, labels={"a": "b"})) == 4
    assert sum(1 for method, *_ in server.requests if method == "GET") == 3 + 2


async def test_an_expired_list_begins_again_and_is_never_half(served):
    cluster, server, api = served
    for number in range(3):
        a_pod(cluster, f"p{number}")
    server.hiccups += [(410, "{}", {})]
    assert len(await api.list_all(PODS, namespace=NS)) == 3
    server.hiccups += [(410, "{}", {})] * 3
    with pytest.raises(ClusterUnavailable):
        await api.list_all(PODS, namespace=NS)


async def test_a_deletion_names_the_uid_and_is_never_forced(served):
    cluster, server, api = served
    pod = a_pod(cluster, finalizers=["veilpod.dev/evidence"])
    with pytest.raises(ClusterUnavailable):
        await api.delete(PODS, "p", uid="another", namespace=NS)
    assert await api.delete(PODS, "p", uid=pod["metadata"]["uid"], namespace=NS)
    body = server.requests[-1][3]
    assert body["preconditions"] == {"uid": pod["metadata"]["uid"]}
    assert "gracePeriodSeconds" not in body
    assert await api.delete(PODS, "gone", uid="x", namespace=NS) is False


async def test_create_gives_back_what_is_there_when_that_is_fine(served):
    _, _, api = served
    body = {"metadata": {"name": "p"}, "spec": {}}
    made = await api.create(PODS, body, namespace=NS)
    assert (await api.create(PODS, body, namespace=NS, exists_ok=True))["metadata"]["uid"] == made["metadata"]["uid"]
    with pytest.raises(ClusterUnavailable):
        await api.create(PODS, body, namespace=NS)


async def test_a_status_is_patched_and_a_vanished_object_is_no_success(served):
    cluster, _, api = served
    cluster.put(COMPUTE_TASKS, {"metadata": {"name": "t"}, "spec": {}}, namespace=NS)
    assert (await api.patch_status(COMPUTE_TASKS, "t", {"phase": "Pending"}, namespace=NS))["status"] == {"phase": "Pending"}
    with pytest.raises(ClusterUnavailable):
        await api.patch_status(COMPUTE_TASKS, "u", {}, namespace=NS)


async def test_finalizers_change_only_on_the_object_that_was_read(served):
    cluster, _, api = served
    pod = a_pod(cluster)["metadata"]
    changed = await api.set_finalizers(PODS, "p", ["f"], resource_version=pod["resourceVersion"], uid=pod["uid"], namespace=NS)
    assert changed["metadata"]["finalizers"] == ["f"]
    with pytest.raises(ClusterUnavailable):
        await api.set_finalizers(PODS, "p", [], resource_version=pod["resourceVersion"], uid=pod["uid"], namespace=NS)


async def test_a_watch_lists_first_and_then_tells_changes(served):
    cluster, _, api = served
    a_pod(cluster, "old")
    seen = []

    async def follow():
        async for change, pod in api.watch(PODS, namespace=NS):
            seen.append((change, pod["metadata"]["name"]))
            if change == "LISTED":
                asyncio.get_running_loop().call_later(0.05, a_pod, cluster, "new")
            if change == "ADDED":
                return

    await asyncio.wait_for(follow(), 5)
    assert seen == [("LISTED", "old"), ("ADDED", "new")]


async def test_the_bearer_token_is_sent(served):
    _, server, api = served
    await api.get(PODS, "p", namespace=NS)
    assert server.tokens == {"Bearer secret"}


def test_a_kubeconfig_is_read_and_a_plugin_is_refused(tmp_path):
    base = "clusters: [{name: c, cluster: {server: 'https://a:1'}}]\ncontexts: [{name: x, context: {cluster: c, user: u}}]\n"
    base += "current-context: x\n"
    path = tmp_path / "config"
    path.write_text(base + "users: [{name: u, user: {token: t}}]\n")
    assert from_kubeconfig(path).bearer() == "t"
    path.write_text(base + "users: [{name: u, user: {exec: {command: x}}}]\n")
    with pytest.raises(InvalidInput):
        from_kubeconfig(path)


def test_a_rotated_token_file_is_read_again(tmp_path):
    token = tmp_path / "token"
    token.write_text("one\n")
    connection = Connection(server="https://a", token_file=token)
    assert connection.bearer() == "one"
    token.write_text("two\n")
    assert connection.bearer() == "two"
