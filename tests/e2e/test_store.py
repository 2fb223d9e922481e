"""The store's image in a real pod, reached as people and operators reach it: `kubectl port-forward`, the control stream, the CLI."""

import asyncio
import base64
import hashlib
import json
import os
import pathlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from localcluster import images, layout
from tests.e2e.conftest import Cluster
from tests.support import mailboxes, stores
from veilpod.cli import main
from veilpod.client import exchange
from veilpod.client.kubectl import Kubectl
from veilpod.control.store_link import StoreLink
from veilpod.control.tasks import Tasks
from veilpod.core import dataset
from veilpod.core.canonical import to_hex
from veilpod.core.onion.directory import RelayEntry
from veilpod.net.control import connect, control_certificate
from veilpod.ports import ControlLink

pytestmark = pytest.mark.e2e

NAMESPACE = "stores"
POD = "hospital-store-0"


@pytest.fixture(scope="module")
def store_image(cluster: Cluster, base_image: str) -> str:
    images.build("store", layout.REPOSITORY / "Dockerfile", layout.REPOSITORY, {"BASE": images.BASE})
    archive = images.save(images.name_of("store"), layout.BUILD / "cluster" / cluster.name / "store.tar")
    try:
        return images.load(cluster.name, archive)[images.name_of("store")]
    finally:
        archive.unlink()


@pytest.fixture
def pod(cluster: Cluster, store_image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KUBECONFIG", "PATH"):
        monkeypatch.setenv(name, cluster.environment[name])
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    cluster.apply(manifest(store_image))
    cluster.kubectl("wait", "--for=jsonpath={.status.phase}=Running", f"pod/{POD}", "-n", NAMESPACE, "--timeout=60s")


def manifest(image: str) -> dict[str, Any]:
    certificate = base64.b64encode(control_certificate(stores.KEYS.control)).decode()
    container = {
        "name": "store",
        "image": image,
        "args": ["--data=/data", f"--operator-cert={certificate}", "--metrics=:8080"],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8080}, "periodSeconds": 1},
        "securityContext": {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    labels = {"app.kubernetes.io/name": "veilpod", "app.kubernetes.io/component": "store", "app.kubernetes.io/instance": "hospital"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": POD, "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 5,
            "containers": [container],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    }


@pytest.fixture
async def operator(pod: None) -> AsyncIterator[StoreLink]:
    """The operator's link, through a forwarded control port."""
    ready = asyncio.Event()
    forwarded: list[int] = []

    async def nothing(*_: Any) -> None:
        pass

    async def directory() -> Sequence[RelayEntry]:
        return []

    async def locate() -> tuple[str, int]:
        return "127.0.0.1", forwarded[-1]

    async def dial(host: str, port: int) -> ControlLink:
        return await connect(host, port, key=stores.KEYS.control, timeout=3)

    link = StoreLink(
        locate=locate,
        connect=dial,
        seal_key=stores.KEYS.seal.private_bytes_raw(),
        directory=directory,
        on_event=nothing,
        on_ready=ready.set,
    )

    async def run() -> None:
        # A forward dies with the first connection that nobody answers, so each attempt has its own.
        async with Kubectl(namespace=NAMESPACE).forward(f"pod/{POD}", 7443) as port:
            forwarded.append(port)
            await link.run()

    async with Tasks() as tasks:
        tasks.start("link", run)
        async with asyncio.timeout(60):
            await ready.wait()
        yield link


async def test_a_data_set_is_put_by_the_command_and_a_result_comes_out_whole(
    operator: StoreLink, cluster: Cluster, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sealed = tmp_path / "north.sealed"
    header = dataset.make_header(name="north", custodian=mailboxes.KEYS[0].encryption.public_bytes, data_key=b"k" * 32, prefix=b"p" * 8)
    sealed.write_bytes(b"".join(dataset.seal_stream([os.urandom(3_000_000)], header=header, data_key=b"k" * 32)))
    digest = hashlib.sha256(sealed.read_bytes()).digest()
    await operator.announce_dataset(digest, sealed.stat().st_size)
    arguments = ["dataset", "put", str(sealed), "-n", NAMESPACE, "--output", "json"]
    assert await asyncio.to_thread(main, arguments) == 0
    assert json.loads(capsys.readouterr().out) == {"stored": True, "new": True}
    assert await asyncio.to_thread(main, arguments) == 0
    assert json.loads(capsys.readouterr().out) == {"stored": True, "new": False}
    assert await operator.header(digest) == header

    await operator.announce_task(mailboxes.TERMS)
    with pytest.raises(Exception, match="no whole result"):
        await fetch()
    cluster.kubectl("wait", "--for=condition=Ready", f"pod/{POD}", "-n", NAMESPACE, "--timeout=30s")
    await operator.forget_dataset(digest)
    await operator.forget_task(mailboxes.TASK)


async def fetch() -> bytes:
    async with Kubectl(namespace=NAMESPACE).forward(f"pod/{POD}", 9102) as port, exchange.opened(port) as talk:
        info = await talk.ask({"get": "result", "taskId": to_hex(mailboxes.TASK)})
        return await talk.receive(info["size"])


def test_a_store_ends_at_its_first_signal(pod: None, cluster: Cluster) -> None:
    cluster.kubectl("delete", "pod", POD, "-n", NAMESPACE, "--grace-period=60", "--timeout=30s")
