"""The pods of the benched cluster: relays and a sandbox as the operator makes them, a store with the chart's resources, and those that
carry code of the bench. Pure builders."""

import base64
import dataclasses
from typing import Any

from bench.inside import (
    CONTROL_PORT,
    DATASET,
    KEYS,
    MAILBOX,
    OWNER,
    RELAY_PORT,
    RESOURCE,
    STORE,
    STORE_PORT,
    UPLOAD_PORT,
)
from veilpod.core.ids import ServerIndex, TaskId
from veilpod.core.sandbox_class import SandboxClass
from veilpod.core.sealing import HybridPrivateKey, recipient_text
from veilpod.core.task.spec import Deadlines, Input, Payment, Program, Quorum, ResultSpec, TaskRole, TaskSpec, Topology
from veilpod.kube import relay_manifests
from veilpod.kube.sandbox_pod import Assignment, sandbox_pod
from veilpod.net.control import control_certificate

WORLD, SANDBOXES = "bench", "bench-sandboxes"
CERTIFICATE = control_certificate(KEYS.control)
CANARY = "198.19.0.1:443"  # the API server's Service
_SECONDS = 300
_RESULT_KEY = HybridPrivateKey.from_bytes(b"\x09" * 96)


def namespaces() -> list[dict[str, Any]]:
    """Everybody's namespace, and that of the sandboxes with its fence."""
    world = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": WORLD}}}
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    return [
        *({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}} for name in (WORLD, SANDBOXES)),
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "sandbox", "namespace": SANDBOXES}},
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "fence", "namespace": SANDBOXES},
            "spec": {
                "podSelector": {},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": [world], "ports": [{"port": CONTROL_PORT}]}],
                "egress": [{"to": [world], "ports": [{"port": RELAY_PORT}]}],
            },
        },
    ]


def relay(number: int, image: str) -> dict[str, Any]:
    """A relay's pod as its operator's Deployment would make it. Nobody bounds its bandwidth."""
    owner = {"metadata": {"name": f"relay-{number}", "namespace": WORLD, "uid": ""}}
    deployment = relay_manifests.deployment(
        owner,
        0,
        release="bench",
        image=image,
        port=RELAY_PORT,
        drain=0,
        operator_cert=_certificate(),
        log_level="WARNING",
        identity_secret=None,
    )
    template: dict[str, Any] = deployment["spec"]["template"]
    del template["spec"]["containers"][0]["readinessProbe"]  # it waits for an operator, who is played here once the pods run
    metadata = template["metadata"] | {"name": f"relay-{number}", "namespace": WORLD}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def store(image: str) -> dict[str, Any]:
    """A store that is a mailbox, too. It takes uploads from other pods, which the chart's does not."""
    ports = [f"--listen=0.0.0.0:{STORE_PORT}", f"--control=0.0.0.0:{CONTROL_PORT}", f"--upload=0.0.0.0:{UPLOAD_PORT}"]
    container = {
        "args": ["--data=/data", f"--operator-cert={_certificate()}", "--log-level=WARNING", *ports],
        "resources": {"requests": {"cpu": "20m", "memory": "96Mi"}, "limits": {"memory": "384Mi"}},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    return _pod("store", image, container, volumes=[{"name": "data", "emptyDir": {}}])


def carrier(name: str, image: str, command: list[str]) -> dict[str, Any]:
    """A pod that runs code of the bench, or waits for it."""
    return _pod(name, image, {"command": command})


def spec(*, program: str, digest: bytes, size: int) -> TaskSpec:
    """One server and one input of so many sealed bytes; the program is never of interest."""
    return TaskSpec(
        program=Program(image=program, command=("python3", "-c", ""), env=(), cpu="50m", memory=64 << 20),
        roles=(TaskRole(name="only", replicas=1, args=()),),
        topology=Topology(type="None"),
        inputs=(
            Input(
                dataset=DATASET,
                resource=RESOURCE,
                node=STORE,
                owner=OWNER.address,
                digest=digest,
                size=size,
                to=ServerIndex(0),
                path="bulk",
            ),
        ),
        result=ResultSpec(sender=ServerIndex(0), recipient=recipient_text(_RESULT_KEY.public_bytes), max_size=1 << 20, mailbox=MAILBOX),
        payment=Payment(per_server=1, per_transfer_mib=1, channel_deposit=1),
        deadlines=Deadlines(schedule=60, inputs=60, compute=_SECONDS, total=2 * _SECONDS),
        quorum=Quorum(),
        hops=3,
        relays="Any",
        sandbox_class="standard",
    )


def sandbox(name: str, *, task: TaskId, spec: TaskSpec, agent: str, relays: list[str], cpu: int | None) -> dict[str, Any]:
    """The sandbox's pod; `cpu`: millis for its agent, None for what the product gives. Nobody here gathers evidence of its end."""
    offered = SandboxClass(name="standard", scratch=32 << 20, grace_seconds=1)
    pod = sandbox_pod(
        name=name,
        namespace=SANDBOXES,
        release="bench",
        assignment=Assignment(name=name, task=task, index=ServerIndex(0), incarnation=1),
        spec=spec,
        sandbox_class=offered if cpu is None else dataclasses.replace(offered, agent_cpu=cpu),
        agent_image=agent,
        operator_cert=CERTIFICATE,
        relay_endpoints=[f"{host}:{RELAY_PORT}" for host in relays],
        canaries=[CANARY],
        deadline_seconds=2 * _SECONDS,
    )
    del pod["metadata"]["finalizers"]
    return pod


def _pod(name: str, image: str, container: dict[str, Any], *, volumes: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    security = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": WORLD},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": name, "image": image, "securityContext": security, **container}],
            "volumes": volumes or [],
        },
    }


def _certificate() -> str:
    return base64.b64encode(CERTIFICATE).decode()
