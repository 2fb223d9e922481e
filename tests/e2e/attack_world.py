"""A compute release with its real fence, hostile programs in real sandboxes behind it, and a pod in which nothing is guarded."""

import base64
import dataclasses
import json
import pathlib
import secrets
from concurrent import futures
from typing import Any

from localcluster import images, layout, waiting
from tests.e2e import fence_world
from tests.e2e.conftest import Cluster
from tests.support import sandbox_net
from veilpod.core.ids import ServerIndex, TaskId
from veilpod.core.keys import SigningKey, node_keys
from veilpod.core.result import Result, open_result, unpack
from veilpod.core.sandbox_class import SandboxClass
from veilpod.core.task.spec import Program, TaskSpec, Topology
from veilpod.kube.sandbox_pod import Assignment, sandbox_pod
from veilpod.net.control import control_certificate

PARTY, RELEASE = "attack-test", "north"
SANDBOXES, WORLD = f"{PARTY}-sandboxes", "attack-test-world"
OPERATOR = f"system:serviceaccount:{PARTY}:{RELEASE}-operator"
CERTIFICATE = control_certificate(node_keys(SigningKey(secret=b"\x31" * 32)).control)
SUPPORT = layout.REPOSITORY / "tests" / "support"
ATTACKS = layout.REPOSITORY / "tests" / "attacks"
PORT = 9092  # of the task: what the program may bind and connect to
API, DNS, NODE = "198.19.0.1", "198.19.0.10", layout.NODE_ADDRESS
SECRET, LATE = f"canary-{secrets.token_hex(16)}", f"late-{secrets.token_hex(8)}"

Manifest = dict[str, Any]

# The pod next door: it answers whoever reaches it, by TCP and by UDP. In the careless pod it plays the agent, too.
OTHER = """
import socket, threading, time
def serve(server):
    while True:
        server.accept()[0].close()
for port in (8080, 7443, 7444, 9092):
    threading.Thread(target=serve, args=(socket.create_server(("0.0.0.0", port)),)).start()
for name in ("veilpod-program", "veilpod-seal"):
    server = socket.socket(socket.AF_UNIX)
    server.bind(chr(0) + name)
    server.listen(8)
    threading.Thread(target=serve, args=(server,)).start()
echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
echo.bind(("0.0.0.0", 8080))
print("agent: ready", flush=True)
while True:
    echo.sendto(*echo.recvfrom(100))
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """What stands before any program runs."""

    cluster: Cluster
    agent: str
    hostile: str
    directory: list[Manifest]
    around: Manifest  # what the hostile program is told of its surroundings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sandbox:
    """One sandbox pod and what its program is."""

    name: str
    task: TaskId
    spec: TaskSpec
    pod: Manifest


def build(cluster: Cluster, ours: dict[str, str], base_image: str) -> World:
    """Install the release, its strangers and their images."""
    result = fence_world.helm(cluster, "install", "--create-namespace", party=PARTY, release=RELEASE)
    assert result.returncode == 0, result.stderr
    images.build("hostile", ATTACKS / "Dockerfile", ATTACKS, {"BASE": images.ensure_base()})
    archive = images.save(images.name_of("hostile"), layout.cache_directory() / "images" / "hostile-test.tar")
    hostile = images.load(cluster.name, archive)[images.name_of("hostile")]

    privileged = {"pod-security.kubernetes.io/enforce": "privileged"}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": WORLD, "labels": privileged}})
    operator = {"veilpod.dev/component": "operator", "app.kubernetes.io/instance": RELEASE}
    world_code = ["python3", "-c", (SUPPORT / "world_pod.py").read_text()]
    cluster.apply(
        _pod("relays", ours["operator"], world_code, labels={"veilpod.dev/component": "relay"}, data=True),
        _pod("other", base_image, ["python3", "-c", OTHER], labels={"app": "other"}),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "other", "namespace": WORLD},
            "spec": {"type": "NodePort", "selector": {"app": "other"}, "ports": [{"port": 8080}]},
        },
        # The release's own policies let sandboxes dial one port of relays; here three relays share an address, so two ports are added.
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "two-more-relays", "namespace": SANDBOXES},
            "spec": {
                "podSelector": {},
                "policyTypes": ["Egress"],
                "egress": [
                    {
                        "to": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"veilpod.dev/component": "relay"}}}],
                        "ports": [{"port": 9002, "endPort": 9003}],
                    }
                ],
            },
        },
    )
    for name in ("relays", "other"):
        cluster.kubectl("wait", "-n", WORLD, f"pod/{name}", "--for=condition=Ready", "--timeout=90s")
    lines: list[str] = []
    assert waiting.until(lambda: bool(lines.extend(cluster.kubectl("logs", "-n", WORLD, "relays").splitlines()) or lines), timeout=60)
    relay, other = (cluster.get("-n", WORLD, "pod", name)["status"]["podIP"] for name in ("relays", "other"))
    driver = _pod("driver", ours["operator"], ["python3", "-c", "import signal; signal.pause()"], labels=operator, namespace=PARTY)
    driver["spec"]["containers"][0]["env"] = [{"name": "POD_IP", "value": relay}]
    cluster.apply(driver)
    cluster.kubectl("wait", "-n", PARTY, "pod/driver", "--for=condition=Ready", "--timeout=90s")
    nodeport = cluster.get("-n", WORLD, "service", "other")["spec"]["ports"][0]["nodePort"]
    around = {"relay": relay, "other": other, "port": PORT, "api": API, "dns": DNS, "node": NODE, "nodeport": nodeport}
    return World(cluster=cluster, agent=ours["agent"], hostile=hostile, directory=json.loads(lines[0]), around=around)


def _pod(name: str, image: str, command: list[str], *, labels: dict[str, str], namespace: str = WORLD, data: bool = False) -> Manifest:
    env: list[Manifest] = [
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "CERT", "value": base64.b64encode(CERTIFICATE).decode()},
    ]
    container: Manifest = {"name": name, "image": image, "command": command, "env": env}
    if data:
        container["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
            "volumes": [{"name": "data", "emptyDir": {}}] if data else [],
        },
    }


def careless(world: World) -> dict[str, dict[str, str]]:
    """Make the same attempts where nothing is guarded: as root, privileged, beside a neighbour whose processes are in sight."""
    around = json.dumps(world.around | {"message": "/dev/termination-log", "devices": "/dev"})
    pod = _pod("careless", world.hostile, ["python3", "-m", "hostile", "careless", around], labels={"app": "careless"})
    neighbour = {"name": "agent", "image": world.hostile, "command": ["python3", "-c", OTHER]}
    pod["spec"] |= {"shareProcessNamespace": True, "initContainers": [neighbour | {"restartPolicy": "Always"}]}
    [container] = pod["spec"]["containers"]
    for item in (container, pod["spec"]["initContainers"][0]):
        item["securityContext"] = {"privileged": True, "runAsUser": 0}
    world.cluster.apply(pod)
    lines: list[str] = []

    def reported() -> bool:
        said = world.cluster.run("logs", "-n", WORLD, "careless", "-c", "careless").stdout.splitlines()
        lines.extend(line for line in said if line.startswith("{"))
        return bool(lines)

    assert waiting.until(reported, timeout=90), world.cluster.get("-n", WORLD, "pod", "careless")
    found: dict[str, dict[str, str]] = json.loads(lines[0])
    world.cluster.kubectl("delete", "-n", WORLD, "pod", "careless", "--wait=false")
    return found


def sandbox(world: World, number: int, part: str, around: Manifest, *, memory: int = 160 << 20) -> Sandbox:
    """Make a sandbox as the release's operator does, with one part of the attack as its program."""
    task = TaskId(bytes([0x70 + number]) * 32)
    program = Program(image=world.hostile, command=("python3", "-m", "hostile", part), env=(), cpu="200m", memory=memory)
    spec = dataclasses.replace(sandbox_net.solo(compute=90), program=program, topology=Topology(type="None", ports=(PORT,)))
    spec = dataclasses.replace(spec, roles=(dataclasses.replace(spec.roles[0], args=(json.dumps(around),)),))
    name = f"hostile-{part}"
    built = sandbox_pod(
        name=name,
        namespace=SANDBOXES,
        release=RELEASE,
        assignment=Assignment(name=name, task=task, index=ServerIndex(0), incarnation=1),
        spec=spec,
        sandbox_class=SandboxClass(name="standard", scratch=16 << 20, grace_seconds=5),
        agent_image=world.agent,
        operator_cert=CERTIFICATE,
        relay_endpoints=[f"{entry['host']}:{entry['port']}" for entry in world.directory],
        canaries=[f"{API}:443"],
        deadline_seconds=300,
    )
    world.cluster.kubectl("create", "--filename=-", f"--as={OPERATOR}", stdin=json.dumps(built))
    return Sandbox(name=name, task=task, spec=spec, pod=built)


def drive(world: World, *sandboxes: Sandbox) -> list[Manifest]:
    """Drive sandboxes to their ends, all at once. Returns what their operator saw of each."""
    assert waiting.until(lambda: all(_listening(world, one) for one in sandboxes), timeout=120)
    pods = [world.cluster.get("-n", SANDBOXES, "pod", one.name) for one in sandboxes]
    given = [
        {
            "ip": pod["status"]["podIP"],
            "uid": pod["metadata"]["uid"],
            "task": one.task.hex(),
            "spec": base64.b64encode(one.spec.encode()).decode(),
        }
        for one, pod in zip(sandboxes, pods, strict=True)
    ]
    code = (SUPPORT / "world_driver.py").read_text()
    command = ["exec", "-n", PARTY, "driver", "--", "python3", "-c", code, json.dumps(world.directory), json.dumps(given)]
    seen: list[Manifest] = json.loads(world.cluster.kubectl(*command, timeout=240))
    return seen


DIAL = """
import json, socket, ssl, sys, threading
found, address = {}, sys.argv[1]
def dial(port):
    try:
        socket.create_connection((address, port), 3).close()
        found[port] = "reached"
    except OSError:
        found[port] = "stopped"
def speak():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with context.wrap_socket(socket.create_connection((address, 7443), 3)) as stream:
            stream.sendall(b"x")
            found["spoken"] = "reached" if stream.recv(1) else "stopped"
    except OSError:
        found["spoken"] = "stopped"
threads = [threading.Thread(target=dial, args=(port,)) for port in (7443, 7444, 9092)] + [threading.Thread(target=speak)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(json.dumps(found))
"""


def from_outside(world: World, one: Sandbox) -> dict[str, str]:
    """What others of the cluster try at a running sandbox: attempt -> reached, stopped, or what else went wrong."""
    cluster = world.cluster
    assert waiting.until(lambda: _listening(world, one), timeout=120)
    address = cluster.get("-n", SANDBOXES, "pod", one.name)["status"]["podIP"]
    tenant, own = (
        json.loads(cluster.kubectl("exec", "-n", namespace, pod, "--", "python3", "-c", DIAL, address))
        for namespace, pod in ((WORLD, "other"), (PARTY, "driver"))
    )
    user = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "attack-test-user"}
    cluster.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "attack-test-user", "namespace": PARTY},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
            "subjects": [user],
        }
    )

    patch = ("--type=merge", "-p", '{"metadata":{"labels":{"veilpod.dev/sandboxes":"false"}}}')
    stranger, inside = "system:serviceaccount:another-party:north-operator", ("-n", SANDBOXES)
    assert waiting.until(
        lambda: cluster.run("auth", "can-i", "get", "pods", "-n", PARTY, "--as=attack-test-user").returncode == 0, timeout=30
    )
    theirs, his = "another release's operator", "a user of the release's namespace"
    asked = {
        f"{theirs} reads the sandboxes": (stranger, "get", "pods", *inside),
        f"{theirs} changes a sandbox": (stranger, "patch", "pod", one.name, *inside, *patch),
        f"{theirs} deletes a sandbox": (stranger, "delete", "pod", one.name, *inside, "--wait=false"),
        f"{theirs} makes a sandbox": (stranger, "create", "--dry-run=server", "--filename=-"),
        f"{his} reads the sandboxes": (user["name"], "get", "pods", *inside),
        f"{his} opens the fence": (user["name"], "delete", "networkpolicy", "default-deny", *inside, "--dry-run=server"),
        f"{his} changes the sandboxes' namespace": (user["name"], "patch", "namespace", SANDBOXES, *patch, "--dry-run=server"),
        f"{his} makes a token for a sandbox": (user["name"], "create", "token", "sandbox", *inside),
        f"{his} reads its own namespace": (user["name"], "get", "pods", "-n", PARTY),
    }

    def ask(who: str, *arguments: str) -> str:
        # Only one of them reads what it is given: the sandbox again.
        answer = cluster.run(*arguments, f"--as={who}", stdin=json.dumps(one.pod))
        if answer.returncode == 0:
            return "reached"
        return "stopped" if "forbidden" in answer.stderr.lower() else answer.stderr

    with futures.ThreadPoolExecutor(4) as pool:
        answers = dict(zip(asked, pool.map(lambda words: ask(*words), asked.values()), strict=True))
    return answers | {
        "a pod of another tenant dials the control port": tenant["7443"],
        "a pod of another tenant dials the startup probe": tenant["7444"],
        "a pod of another tenant dials a port of the program": tenant["9092"],
        "the operator's own pod dials the control port": own["7443"],
        "the operator's own pod dials a port of the program": own["9092"],
        "who may pass the policy, without the operator's key, speaks to the agent": own["spoken"],
    }


def _listening(world: World, one: Sandbox) -> bool:
    status = world.cluster.get("-n", SANDBOXES, "pod", one.name).get("status", {})
    return any(item["name"] == "agent" and "running" in item["state"] for item in status.get("initContainerStatuses", []))


def opened(one: Sandbox, seen: Manifest) -> tuple[Any, Result]:
    """Read a sandbox's report as the recipient of its result does."""
    result = open_result(base64.b64decode(seen["sealed"]), sandbox_net.REQUESTER, task=one.task)
    [report] = [entry for entry in unpack(result.archive) if entry.path == "report.json"]
    return json.loads(report.data), result


def bury(world: World, one: Sandbox) -> Manifest:
    """Delete a sandbox as its operator does, wait for the node's last word, let it go. Returns the pod as it was last."""
    who = f"--as={OPERATOR}"
    world.cluster.kubectl("delete", "-n", SANDBOXES, "pod", one.name, "--wait=false", who)

    def gone() -> bool:
        pod = world.cluster.get("-n", SANDBOXES, "pod", one.name)
        every = [*pod["status"]["initContainerStatuses"], *pod["status"]["containerStatuses"]]
        return pod["metadata"].get("deletionGracePeriodSeconds") == 0 and all("running" not in item["state"] for item in every)

    assert waiting.until(gone, timeout=60), world.cluster.get("-n", SANDBOXES, "pod", one.name)
    last = world.cluster.get("-n", SANDBOXES, "pod", one.name)
    patch = ("patch", "-n", SANDBOXES, "pod", one.name, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    world.cluster.kubectl(*patch, who)
    return last


def remove(world: World) -> None:
    """Leave nothing for who comes next on this cluster."""
    world.cluster.run("delete", "namespace", WORLD, "--wait=false")
    world.cluster.run("delete", "pods", "--all", "-n", SANDBOXES, "--wait=false")


def node_of(cluster: Cluster) -> pathlib.Path:
    """The node's disk, as the host sees it: the pods' memory volumes are not mounted there."""
    return layout.Layout(cluster.name).node
