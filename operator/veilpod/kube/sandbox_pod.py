"""The manifest of a sandbox pod: one pure function, and every rule P1 to P19 of the threat model in one place (paper step 4).

    agent     init, always running  proves the network fence, or ends before it listens; then holds the keys. Its startup probe passes
                                    when the inputs are verified, which gates what follows
    program   init                  the user's image, started by our launcher from a memory volume
    seal      main                  holds the pod until the operator has persisted what must outlive it

Kubernetes sequences the whole. Nothing here talks to a cluster. The user decides image, command, environment and sizes, and no other field.
"""

import base64
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from veilpod.core.canary import NODE, NODE_VARIABLE, parse_canary
from veilpod.core.canonical import to_hex
from veilpod.core.ids import ServerIndex, TaskId
from veilpod.core.sandbox_class import SandboxClass, to_millis
from veilpod.core.task.spec import TaskSpec
from veilpod.errors import InvalidInput

CONTROL_PORT = 7443
READY_PORT = 7444
FINALIZER = "veilpod.dev/evidence"
SERVICE_ACCOUNT = "sandbox"
ASSIGNMENT_LABEL = "veilpod.dev/assignment"
INCARNATION_LABEL = "veilpod.dev/incarnation"
USER = 65532
_MIB = 1 << 20
_SLACK_SECONDS = 120  # the kubelet's own deadline is the last one, behind the agent's and the operator's
_AGENT_BASE = 160 * _MIB
_SMALL = {"cpu": 50, "memory": 96 * _MIB}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Whose sandbox it is: a server's place in a task, and which life of it."""

    name: str  # of the TaskAssignment
    task: TaskId
    index: ServerIndex
    incarnation: int


def sandbox_pod(
    *,
    name: str,
    namespace: str,
    release: str,
    assignment: Assignment,
    spec: TaskSpec,
    sandbox_class: SandboxClass,
    agent_image: str,
    operator_cert: bytes,
    relay_endpoints: Sequence[str],
    canaries: Sequence[str],
    deadline_seconds: int,
    user_namespaces_supported: bool = False,
    pull_policy: str = "IfNotPresent",
) -> dict[str, Any]:
    """Build the pod.

    `relay_endpoints` are ip:port and `canaries` as `core.canary` reads them, for netguard; the class's canaries are added.
    `deadline_seconds` is the time until the task's last deadline. `user_namespaces_supported`: the node advertises them for this
    runtime. Raises InvalidInput for an image without digest, a canary that is none, or when netguard would have nothing to prove.
    """
    every_canary = tuple(dict.fromkeys(parse_canary(text).spell() for text in [*canaries, *sandbox_class.canaries]))
    if not relay_endpoints or not every_canary:
        raise InvalidInput("NothingToProve", "netguard needs at least one relay that answers and one canary that must not")
    sizes = _Sizes.of(spec, assignment.index, sandbox_class)
    guard = ["--allow", *relay_endpoints, "--canary", *every_canary]
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "finalizers": [FINALIZER],
            "labels": _labels(release, assignment),  # P19: made here, from nothing that a user wrote
        },
        "spec": {
            "serviceAccountName": SERVICE_ACCOUNT,
            "automountServiceAccountToken": False,  # P1
            "enableServiceLinks": False,  # P2
            "hostNetwork": False,  # P3
            "hostPID": False,
            "hostIPC": False,
            "shareProcessNamespace": False,
            "hostname": "sandbox",
            "securityContext": {  # P4, P5
                "runAsNonRoot": True,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "restartPolicy": "Never",  # P14
            "activeDeadlineSeconds": max(1, deadline_seconds) + _SLACK_SECONDS,
            "terminationGracePeriodSeconds": sandbox_class.grace_seconds,  # P15
            "dnsPolicy": "None",  # P16: nothing listens on the loopback's port 53, so a look-up fails at once and leaves no trace outside
            "dnsConfig": {"nameservers": ["127.0.0.1"], "searches": [], "options": []},
            "affinity": _apart_from_relays(),  # P18
            "volumes": _volumes(sizes),  # P7
            "initContainers": [
                _agent(agent_image, guard, operator_cert, sizes, deadline_seconds, sandbox_class, pull_policy),
                _program(spec, assignment, sizes, pull_policy),
            ],
            "containers": [_seal(agent_image, sizes, pull_policy)],
        },
    }
    if sandbox_class.runtime_class:  # P10
        pod["spec"]["runtimeClassName"] = sandbox_class.runtime_class
    if sandbox_class.user_namespaces and user_namespaces_supported:  # P9
        pod["spec"]["hostUsers"] = False
    return pod


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """CPU in millis, memory in bytes. A tmpfs page is charged to who wrote it: inputs to the agent, output and scratch to the program."""

    agent_cpu: int
    agent_memory: int
    program_cpu: int
    program_memory: int
    inputs: int
    outputs: int
    scratch: int

    @classmethod
    def of(cls, spec: TaskSpec, index: ServerIndex, offered: SandboxClass) -> "_Sizes":
        own = [item.size for item in spec.inputs if item.to == index]
        # The archive, its sealed form and what lies between are in memory at once.
        result = 4 * spec.result.max_size if spec.result.sender == index else 0
        peers = 16 * _MIB * len(spec.peers(index))
        memory = spec.program.memory
        return cls(
            agent_cpu=offered.agent_cpu,
            agent_memory=_whole(_AGENT_BASE + sum(own) + max(own, default=0) + result + peers),
            program_cpu=to_millis(spec.program.cpu),
            program_memory=memory,
            inputs=_whole(sum(own) + _MIB),
            outputs=min(memory, _whole(spec.result.max_size + _MIB)),
            scratch=min(memory, offered.scratch),
        )

    @property
    def seal(self) -> dict[str, int]:
        """Seal runs after the program, in its place."""
        return {"cpu": max(_SMALL["cpu"], min(self.program_cpu, 250)), "memory": _SMALL["memory"]}


def _agent(
    image: str,
    guard: Sequence[str],
    operator_cert: bytes,
    sizes: _Sizes,
    deadline_seconds: int,
    offered: SandboxClass,
    pull_policy: str,
) -> dict[str, Any]:
    own = [
        "--operator-cert",
        base64.b64encode(operator_cert).decode(),
        f"--control=0.0.0.0:{CONTROL_PORT}",
        f"--ready=0.0.0.0:{READY_PORT}",
    ]
    return {
        **_container("agent", image, pull_policy, cpu=sizes.agent_cpu, memory=sizes.agent_memory),
        "args": ["run", *own, *guard],
        **_told_its_node(guard),
        "restartPolicy": "Always",  # a native sidecar; a marker in the volume `life` keeps a second life from beginning
        "ports": [{"name": "control", "containerPort": CONTROL_PORT, "protocol": "TCP"}],
        # P17. A failed startup probe would restart the container, so it is allowed to fail until the pod's own deadline.
        "startupProbe": {
            "tcpSocket": {"port": READY_PORT},
            "periodSeconds": 1,
            "failureThreshold": math.ceil(max(1, deadline_seconds)) + _SLACK_SECONDS,
        },
        "volumeMounts": [
            _mount("in"),
            _mount("out"),
            _mount("scratch"),
            _mount("bin"),
            _mount("life"),
            _mount("pod", read_only=True),
        ],
    }


def _program(spec: TaskSpec, assignment: Assignment, sizes: _Sizes, pull_policy: str) -> dict[str, Any]:
    server = spec.servers[assignment.index]
    names = {peer.index: f"{peer.role.name}-{peer.ordinal}" for peer in spec.servers}
    # Ours come last: a user's VEILPOD_ROLE must not lie to the program.
    env = dict(spec.program.env) | {
        "VEILPOD_TASK": to_hex(assignment.task),
        "VEILPOD_ROLE": server.role.name,
        "VEILPOD_INDEX": str(server.ordinal),
        "VEILPOD_PEERS": ",".join(names[peer] for peer in spec.peers(assignment.index)),
    }
    launcher = ["/veilpod/bin/launch", "--socket", "@veilpod-program", "--"]
    return {
        **_container("program", spec.program.image, pull_policy, cpu=sizes.program_cpu, memory=sizes.program_memory),
        "command": [_literal(word) for word in (*launcher, *spec.program.command, *server.role.args)],
        # P13: this file becomes the pod's status. The agent made it where nobody may enter, in a volume that is read-only here.
        "terminationMessagePath": "/veilpod/bin/.end/message",
        "env": [{"name": name, "value": _literal(value)} for name, value in sorted(env.items())],
        "volumeMounts": [
            _mount("in", read_only=True),
            _mount("out"),
            _mount("scratch", path="/tmp"),  # noqa: S108 - the program's scratch, in memory
            _mount("bin", read_only=True),
        ],
    }


def _told_its_node(guard: Sequence[str]) -> dict[str, Any]:
    """P12: the address of the pod's own node, for who has to find it out of reach. Kubernetes gives it as an environment variable only."""
    if not any(parse_canary(text).host == NODE for text in guard[guard.index("--canary") + 1 :]):
        return {}
    return {"env": [{"name": NODE_VARIABLE, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.hostIPs"}}}]}


def _seal(image: str, sizes: _Sizes, pull_policy: str) -> dict[str, Any]:
    return {**_container("seal", image, pull_policy, **sizes.seal), "args": ["seal"]}


def _container(name: str, image: str, pull_policy: str, *, cpu: int, memory: int) -> dict[str, Any]:
    if "@sha256:" not in image or len(image.rpartition("@sha256:")[2]) != 64:
        raise InvalidInput("ImageWithoutDigest", f"the image of {name} must be named by digest: NAME@sha256:…")  # P11
    amount = {"cpu": f"{cpu}m", "memory": str(memory)}
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": pull_policy,
        "securityContext": {  # P4, P6
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {"requests": amount, "limits": dict(amount)},  # P8
        "terminationMessagePolicy": "File",  # P13
    }


def _volumes(sizes: _Sizes) -> list[dict[str, Any]]:
    memory = {
        "in": sizes.inputs,
        "out": sizes.outputs,
        "scratch": sizes.scratch,
        "bin": 4 * _MIB,
        "life": _MIB,
    }
    volumes: list[dict[str, Any]] = [
        {"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": str(size)}} for name, size in memory.items()
    ]
    # P12: the one thing that the pod learns about itself as a file.
    uid = {"path": "uid", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.uid"}}
    return [*volumes, {"name": "pod", "downwardAPI": {"items": [uid]}}]


def _mount(name: str, *, path: str = "", read_only: bool = False) -> dict[str, Any]:
    return {"name": name, "mountPath": path or f"/veilpod/{name}", "readOnly": read_only}


def _labels(release: str, assignment: Assignment) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "veilpod",
        "app.kubernetes.io/instance": release,
        "app.kubernetes.io/component": "sandbox",
        "app.kubernetes.io/managed-by": "veilpod",
        "veilpod.dev/component": "sandbox",
        ASSIGNMENT_LABEL: assignment.name,
        INCARNATION_LABEL: str(assignment.incarnation),
    }


def _apart_from_relays() -> dict[str, Any]:
    """Where there are nodes enough, a sandbox is not beside a relay: one node would see both ends of a hop."""
    term = {
        "labelSelector": {"matchLabels": {"veilpod.dev/component": "relay"}},
        "namespaceSelector": {},
        "topologyKey": "kubernetes.io/hostname",
    }
    return {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]}}


def _literal(value: str) -> str:
    """Kubernetes expands $(NAME) in values; a user's text is taken as it is."""
    return value.replace("$(", "$$(")


def _whole(size: int) -> int:
    return -(-size // _MIB) * _MIB
