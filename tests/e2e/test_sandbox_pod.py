"""One sandbox pod on a real node, from its creation to the node's last word, driven by an operator of a few lines.

What unit tests cannot show: that Kubernetes sequences the containers as drawn, that volumes, sockets and memory limits fit, that nothing of
the program reaches the node's disk, and that a native sidecar that dies stays dead.
"""

import base64
import dataclasses
import json
import pathlib
import subprocess
from typing import Any

import pytest

from localcluster import layout, waiting
from tests.e2e.conftest import Cluster
from tests.support import sandbox_net
from veilpod.core.agent_messages import parse_sealed_result
from veilpod.core.ids import ServerIndex
from veilpod.core.keys import SigningKey, node_keys
from veilpod.core.result import open_result, result_hash, unpack
from veilpod.core.sandbox_class import SandboxClass
from veilpod.core.task.pods import read_pod
from veilpod.core.task.spec import Program, TaskSpec
from veilpod.kube.sandbox_pod import FINALIZER, Assignment, sandbox_pod
from veilpod.net.control import control_certificate

pytestmark = pytest.mark.e2e

WORLD, SANDBOXES = "sandbox-world", "sandbox-pods"
CERTIFICATE = control_certificate(node_keys(SigningKey(secret=b"\x31" * 32)).control)
# The API server's Service and address, the name server by both protocols, the node, what no route leads to.
CANARIES = ["198.19.0.1:443", "198.19.255.1:6443", "udp://198.19.0.10:53", "198.19.0.10:53", "node:10250", "[fd00:ec2::254]:80"]
SECRET = "plaintext-that-must-not-rest-anywhere"
SUPPORT = layout.REPOSITORY / "tests" / "support"

# What the program finds out about the place it runs in. Its words are sealed into the result.
PROBE = """
import json, os, pathlib, socket
def refused(what):
    try:
        what()
        return False
    except OSError:
        return True
found = {
    "uid": os.getuid(),
    "root is read-only": refused(lambda: open("/written", "w")),
    "inputs are read-only": refused(lambda: open("/veilpod/in/written", "w")),
    "tmp is memory": any(line.split()[1] == "/tmp" and line.split()[2] == "tmpfs" for line in open("/proc/self/mounts")),
    "api is out of reach": refused(lambda: socket.create_connection(("198.19.0.1", 443), 2)),
    "no dns": refused(lambda: socket.getaddrinfo("kubernetes.default.svc.cluster.local", 443)),
    "no kubernetes in the environment": not any(name.startswith("KUBERNETES") for name in os.environ),
    "no token": not os.path.exists("/var/run/secrets/kubernetes.io"),
    "nothing of the agent's": not any(os.path.exists("/veilpod/" + name) for name in ("seal", "life", "pod", "scratch")),
    "no more privileges": "NoNewPrivs:\\t1" in open("/proc/self/status").read(),
}
pathlib.Path("/veilpod/out/found.json").write_text(json.dumps(found))
pathlib.Path("/tmp/scratch").write_text("SECRET")
print("SECRET")
for log in ("/proc/1/fd/1", "/proc/1/fd/2", "/dev/termination-log", "/veilpod/bin/.end/message"):  # what the kubelet would keep
    try:
        open(log, "w").write("SECRET")
    except OSError:
        pass
""".replace("SECRET", SECRET)


def spec(image: str) -> TaskSpec:
    program = Program(image=image, command=("python3", "-c", PROBE), env=(), cpu="200m", memory=96 << 20)
    return dataclasses.replace(sandbox_net.solo(compute=120), program=program)


@pytest.fixture(scope="module")
def world(cluster: Cluster, ours: dict[str, str]) -> list[dict[str, Any]]:
    """Relays and a mailbox in a pod, the sandboxes' namespace with its fence; returns the directory."""
    for name, level in ((WORLD, "privileged"), (SANDBOXES, "restricted")):
        labels = {"pod-security.kubernetes.io/enforce": level}
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    from_world = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": WORLD}}}
    cluster.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "sandbox", "namespace": SANDBOXES}},
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "fence", "namespace": SANDBOXES},
            "spec": {
                "podSelector": {},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": [from_world], "ports": [{"port": 7443}]}],
                "egress": [{"to": [from_world], "ports": [{"port": 9001, "endPort": 9003}]}],
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "world", "namespace": WORLD},
            "spec": {
                "volumes": [{"name": "data", "emptyDir": {}}],
                "containers": [
                    {
                        "name": "world",
                        "image": ours["operator"],
                        "command": ["python3", "-c", (SUPPORT / "world_pod.py").read_text()],
                        "env": [
                            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                            {"name": "CERT", "value": base64.b64encode(CERTIFICATE).decode()},
                        ],
                        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                    }
                ],
            },
        },
    )
    cluster.kubectl("wait", "-n", WORLD, "pod/world", "--for=condition=Ready", "--timeout=90s")
    lines: list[str] = []
    assert waiting.until(lambda: bool(lines.extend(cluster.kubectl("logs", "-n", WORLD, "world").splitlines()) or lines), timeout=60)
    directory: list[dict[str, Any]] = json.loads(lines[0])
    return directory


def make(cluster: Cluster, name: str, *, task: TaskSpec, agent: str, directory: list[dict[str, Any]], runtime: str = "") -> dict[str, Any]:
    offered = SandboxClass(name="standard", scratch=32 << 20, runtime_class=runtime, grace_seconds=5)
    pod = sandbox_pod(
        name=name,
        namespace=SANDBOXES,
        release="north",
        assignment=Assignment(name=name, task=sandbox_net.TASK, index=ServerIndex(0), incarnation=1),
        spec=task,
        sandbox_class=offered,
        agent_image=agent,
        operator_cert=CERTIFICATE,
        relay_endpoints=[f"{entry['host']}:{entry['port']}" for entry in directory],
        canaries=CANARIES,
        deadline_seconds=300,
    )
    cluster.apply(pod)
    assert waiting.until(lambda: "running" in state(cluster, name, "agent"), timeout=120), cluster.get("-n", SANDBOXES, "pod", name)
    return cluster.get("-n", SANDBOXES, "pod", name)


def state(cluster: Cluster, name: str, container: str) -> dict[str, Any]:
    status = cluster.get("-n", SANDBOXES, "pod", name)["status"]
    every = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    found: dict[str, Any] = next((item["state"] for item in every if item["name"] == container), {})
    return found


def drive(cluster: Cluster, pod: dict[str, Any], task: TaskSpec, directory: list[dict[str, Any]]) -> dict[str, Any]:
    code, spec = (SUPPORT / "world_driver.py").read_text(), base64.b64encode(task.encode()).decode()
    sandbox = {"ip": pod["status"]["podIP"], "uid": pod["metadata"]["uid"], "task": sandbox_net.TASK.hex(), "spec": spec}
    command = ["exec", "-n", WORLD, "world", "--", "python3", "-c", code, json.dumps(directory), json.dumps([sandbox])]
    [result] = json.loads(cluster.kubectl(*command, timeout=240))
    return dict(result)


def bury(cluster: Cluster, name: str) -> None:
    """What the operator does at the end: delete, wait for the node's last word, take the finalizer away."""
    cluster.kubectl("delete", "-n", SANDBOXES, "pod", name, "--wait=false")

    def node_confirmed() -> bool:
        pod = cluster.get("-n", SANDBOXES, "pod", name)
        every = [*pod["status"]["initContainerStatuses"], *pod["status"]["containerStatuses"]]
        return pod["metadata"].get("deletionGracePeriodSeconds") == 0 and all("running" not in item["state"] for item in every)

    assert waiting.until(node_confirmed, timeout=60), cluster.get("-n", SANDBOXES, "pod", name)
    cluster.kubectl("patch", "-n", SANDBOXES, "pod", name, "--type=json", "-p", '[{"op":"remove","path":"/metadata/finalizers"}]')


@pytest.mark.parametrize("runtime", ["", "gvisor"])
def test_a_sandbox_lives_as_drawn_and_leaves_nothing_on_the_node(
    cluster: Cluster, ours: dict[str, str], base_image: str, world: list[dict[str, Any]], runtime: str
) -> None:
    name, task = f"life-{runtime or 'runc'}", spec(base_image)
    pod = make(cluster, name, task=task, agent=ours["agent"], directory=world, runtime=runtime)
    assert pod["status"]["qosClass"] == "Guaranteed"
    assert pod["metadata"]["finalizers"] == [FINALIZER]
    assert "running" not in state(cluster, name, "program")

    seen = drive(cluster, pod, task, world)
    story = ["netguard", "ready", "offers", "accepted", "inputs", "started", "exited", "result", "delivered"]
    assert [event for event in seen["order"] if event in story] == story
    assert seen["events"]["netguard"] == {"allowed": 3, "blocked": len(CANARIES)}
    assert seen["events"]["exited"] == {"how": "Exited", "code": 0}
    # What is stated is what was found, whatever the class promised.
    assert seen["statement"]["statement"]["tier"] == ("T1" if runtime else "T0")
    assert seen["statement"]["evidence"] == "0x"
    assert seen["zeroised"]["podUid"] == pod["metadata"]["uid"]

    # The result says what the program found, and holds what it said.
    sealed = base64.b64decode(seen["sealed"])
    assert result_hash(sandbox_net.TASK, sealed) == parse_sealed_result(seen["events"]["result"]).result_hash
    result = open_result(sealed, sandbox_net.REQUESTER, task=sandbox_net.TASK)
    [entry] = unpack(result.archive)
    found = json.loads(entry.data)
    assert found.pop("uid") == 65532
    # gVisor shows its containers neither the kind of a mount nor the flag; the node's mounts and the launcher are the same.
    unseen = {"tmp is memory", "no more privileges"} if runtime else set()
    assert [claim for claim, holds in found.items() if not holds and claim not in unseen] == []
    assert SECRET in result.log.stdout.decode()

    # The pod ends by itself, with words of the vocabulary alone.
    assert waiting.until(lambda: cluster.get("-n", SANDBOXES, "pod", name)["status"]["phase"] == "Succeeded", timeout=60)
    assert state(cluster, name, "seal")["terminated"]["message"] == "Released"
    assert "message" not in state(cluster, name, "program")["terminated"]
    assert SECRET not in json.dumps(cluster.get("-n", SANDBOXES, "pod", name)["status"])
    assert cluster.kubectl("logs", "-n", SANDBOXES, name, "-c", "program") == (
        "veilpod: the program runs; its output is sealed into the result\n"
    )
    for container in ("agent", "seal"):
        assert SECRET not in cluster.kubectl("logs", "-n", SANDBOXES, name, "-c", container)
    on_disk = subprocess.run(
        ["grep", "-rl", "--binary-files=text", SECRET, *map(str, disk_of(cluster))], capture_output=True, text=True, check=False
    )
    # The command line of the program is public and is in etcd and in its container's configuration; what it wrote is nowhere.
    assert [path for path in on_disk.stdout.splitlines() if "/log/" in path or "/kubelet/" in path] == []
    bury(cluster, name)


def test_an_agent_that_dies_does_not_live_again(
    cluster: Cluster, ours: dict[str, str], base_image: str, world: list[dict[str, Any]]
) -> None:
    name = "reborn"
    pod = make(cluster, name, task=spec(base_image), agent=ours["agent"], directory=world)
    assert waiting.until(lambda: "agent.listening" in cluster.kubectl("logs", "-n", SANDBOXES, name, "-c", "agent"), timeout=60)
    agent = next(item for item in pod["status"]["initContainerStatuses"] if item["name"] == "agent")
    kill = ["-n", "k8s.io", "task", "kill", "--signal", "SIGKILL", agent["containerID"].removeprefix("containerd://")]
    subprocess.run([str(layout.BUILD / "bin" / "ctr"), "-a", str(cluster.layout.directory / "containerd.sock"), *kill], check=True)

    def refused_to_live() -> bool:
        [status] = [
            item for item in cluster.get("-n", SANDBOXES, "pod", name)["status"]["initContainerStatuses"] if item["name"] == "agent"
        ]
        ended = status.get("lastState", {}).get("terminated", {}), status["state"].get("terminated", {})
        return status["restartCount"] > 0 and any(end.get("exitCode") == 30 and end.get("message") == "AgentRestarted" for end in ended)

    assert waiting.until(refused_to_live, timeout=60), cluster.get("-n", SANDBOXES, "pod", name)["status"]
    bury(cluster, name)


def test_a_fence_that_does_not_hold_ends_the_agent_before_it_listens(
    cluster: Cluster, ours: dict[str, str], base_image: str, world: list[dict[str, Any]]
) -> None:
    relays = [f"{entry['host']}:{entry['port']}" for entry in world]
    pod = sandbox_pod(
        name="leaky",
        namespace=SANDBOXES,
        release="north",
        assignment=Assignment(name="leaky", task=sandbox_net.TASK, index=ServerIndex(0), incarnation=1),
        spec=spec(base_image),
        sandbox_class=SandboxClass(name="standard", scratch=32 << 20, grace_seconds=5),
        agent_image=ours["agent"],
        operator_cert=CERTIFICATE,
        relay_endpoints=relays,
        canaries=relays[:1],  # a canary that the fence lets through
        deadline_seconds=300,
    )
    pod["spec"]["initContainers"][0]["args"] += ["--netguard-seconds", "5"]
    cluster.apply(pod)

    def refused() -> bool:
        seen = cluster.get("-n", SANDBOXES, "pod", "leaky")
        return read_pod(seen, nonce="", now=0).refused

    assert waiting.until(refused, timeout=60), cluster.get("-n", SANDBOXES, "pod", "leaky")["status"]
    assert "agent.listening" not in cluster.kubectl("logs", "-n", SANDBOXES, "leaky", "-c", "agent")
    assert "running" not in state(cluster, "leaky", "program")
    bury(cluster, "leaky")


def disk_of(cluster: Cluster) -> list[pathlib.Path]:
    """What the node writes."""
    return [cluster.layout.directory / "node" / "log", cluster.layout.directory / "node" / "lib" / "kubelet"]
