"""kopf's part, with the real kopf against an API server on loopback: every object's key reaches the queue, and nothing is written."""

import asyncio

import kopf
from tests.support.fake_apiserver import FakeApiServer
from tests.support.fake_cluster import FakeCluster

from veilpod.control import handlers
from veilpod.control.role import Key
from veilpod.core.kinds import COMPUTE_TASKS, STATE_CHANNELS
from veilpod.kube.connection import Connection

NS = "party"


async def test_existing_and_new_objects_enqueue_their_keys_and_kopf_writes_nothing():
    cluster, keys, told = FakeCluster(), [], []
    cluster.put(COMPUTE_TASKS, {"metadata": {"name": "old"}, "spec": {}}, namespace=NS)
    cluster.put(COMPUTE_TASKS, {"metadata": {"name": "stranger"}, "spec": {}}, namespace="another")
    before = dict(cluster.writes)

    async def tell(word):
        told.append(word)

    async with FakeApiServer(cluster, chunk=100).running() as server:
        registry = handlers.register(
            [COMPUTE_TASKS, STATE_CHANNELS],
            connection=Connection(server=f"http://127.0.0.1:{server.port}"),
            enqueue=keys.append,
            start=lambda: tell("start"),
            stop=lambda: tell("stop"),
        )
        stop = asyncio.Event()
        running = asyncio.create_task(
            kopf.operator(
                registry=registry, settings=handlers.settings(), standalone=True, namespaces=[NS], stop_flag=stop, identity="test"
            )
        )
        async with asyncio.timeout(20):
            while Key(kind="computetasks", name="old") not in keys:  # noqa: ASYNC110 - kopf tells nobody when it has listed
                await asyncio.sleep(0.02)
            cluster.put(STATE_CHANNELS, {"metadata": {"name": "new"}, "spec": {}}, namespace=NS)
            while Key(kind="statechannels", name="new") not in keys:  # noqa: ASYNC110 - kopf tells nobody when it has listed
                await asyncio.sleep(0.02)
            stop.set()
            await running
    assert told == ["start", "stop"]
    assert all(key.name != "stranger" for key in keys)
    assert {kind: count for kind, count in cluster.writes.items() if kind != "StateChannel"} == before
    assert all(method == "GET" for method, *_ in server.requests)
