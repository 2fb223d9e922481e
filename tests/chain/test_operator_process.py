"""`python -m veilpod.control` as a process: it waits for a chain that is down, becomes ready, tells its metrics, ends on SIGTERM."""

import asyncio
import signal
import socket
import sys

import aiohttp
import pytest
import yaml
from tests.support import anvil as nodes
from tests.support.fake_apiserver import FakeApiServer
from tests.support.fake_cluster import FakeCluster
from tests.support.fences import put_fences

from veilpod.core.kinds import ADMISSION_BINDINGS, ADMISSION_POLICIES, NAMESPACES, NETWORK_POLICIES, RUNTIME_CLASSES, SANDBOX_CLASSES

pytestmark = pytest.mark.chain
FENCES = (ADMISSION_BINDINGS, ADMISSION_POLICIES, NAMESPACES, NETWORK_POLICIES, RUNTIME_CLASSES)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until(port: int, path: str, word: str) -> None:
    async with asyncio.timeout(60):
        while word not in (await probe(port, path))[1]:  # noqa: ASYNC110 - a probe is polled
            await asyncio.sleep(0.05)


async def probe(port: int, path: str) -> tuple[int, str]:
    try:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/{path}") as answer:
            return answer.status, await answer.text()
    except aiohttp.ClientError:
        return 0, ""


async def test_the_operator_waits_for_its_chain_becomes_ready_and_ends_when_told(anvil, tmp_path):
    addresses, http, late = anvil.addresses, free_port(), free_port()
    (tmp_path / "key").write_text("0x" + nodes.account(1).secret.hex())
    config = {
        "release": "party",
        "namespace": "party",
        "sandboxNamespace": "party-sandboxes",
        "roles": ["compute"],
        "chain": {
            "rpcUrl": f"http://127.0.0.1:{late}",
            "chainId": nodes.CHAIN_ID,
            "confirmations": 0,
            "contracts": {"registry": addresses.registry, "scheduler": addresses.scheduler, "channels": addresses.channels},
        },
        "images": {"agent": "r/a@sha256:" + "a" * 64},
        "compute": {"capacity": 1, "stake": "1000"},
        "stateDir": str(tmp_path / "state"),
        "keyFile": str(tmp_path / "key"),
        "httpPort": http,
    }
    (tmp_path / "state").mkdir()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    kubernetes = FakeCluster()
    put_fences(kubernetes, "party-sandboxes")
    async with FakeApiServer(kubernetes, chunk=100, more=FENCES).running() as server:
        cluster = {"clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.port}"}}], "current-context": "x"}
        cluster |= {"contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}], "users": [{"name": "u", "user": {"token": "t"}}]}
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(cluster))
        environment = {"KUBECONFIG": str(tmp_path / "kubeconfig"), "PYTHONPATH": "operator", "PATH": "/usr/bin:/bin"}
        command = [sys.executable, "-m", "veilpod.control", "--config", str(tmp_path / "config.yaml")]
        process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.DEVNULL)
        serving = None
        try:
            async with asyncio.timeout(120):
                await until(http, "healthz", "ok")
                assert await probe(http, "readyz") == (503, "the chain has not answered yet")
                assert process.returncode is None, "a chain that is down is waited for"

                # The chain comes up behind the address that was configured.
                serving = await asyncio.start_server(lambda r, w: forward(r, w, anvil.port), "127.0.0.1", late)
                await until(http, "readyz", "this cluster offers no SandboxClass")
                kubernetes.put(SANDBOX_CLASSES, {"metadata": {"name": "standard"}, "spec": {"tier": "T0"}})
                await until(http, "readyz", "ok")
                assert "veilpod_queue_oldest_seconds" in (await probe(http, "metrics"))[1]
                process.send_signal(signal.SIGTERM)
                assert await process.wait() == 0
        finally:
            if serving is not None:
                serving.close()
                await serving.wait_closed()
            if process.returncode is None:
                process.kill()
                await process.wait()


async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """A few lines of TCP proxy."""
    back_reader, back_writer = await asyncio.open_connection("127.0.0.1", port)

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        except ConnectionError:
            pass
        finally:
            target.close()

    await asyncio.gather(pump(reader, back_writer), pump(back_reader, writer))


async def test_a_wrong_configuration_is_told_and_ends_the_process(tmp_path):
    (tmp_path / "config.yaml").write_text("roles: []\n")
    command = [sys.executable, "-m", "veilpod.control", "--config", str(tmp_path / "config.yaml")]
    process = await asyncio.create_subprocess_exec(*command, env={"PYTHONPATH": "operator"}, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    assert process.returncode == 2
    assert b"InvalidConfig" in said
