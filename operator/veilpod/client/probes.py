"""Is NetworkPolicy really enforced? Two pods find out: one listens, one dials it and the API server, all the time, and logs what it sees.

    before   no policy        the peer is reachable
    denied   default deny     the peer is not, within the time that netguard would wait
    canary   default deny     the API server is not
    dns      default deny     the cluster's name server is not, by UDP
    node     default deny     the pod's own node is not (NetworkPolicy itself leaves that open; most network plugins close it)
    allowed  + one allowance  the peer is again, and the API server still is not

No exec: the dialler's log is its report. For each address family that the pods have.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from veilpod.client import findings
from veilpod.client.findings import Finding
from veilpod.client.kubectl import Kubectl
from veilpod.core.task.pods import STUCK
from veilpod.errors import ClusterUnavailable

PORT = 8080
_START_SECONDS = 180.0  # the image may have to be pulled
_POLICY_SECONDS = 60.0  # as long as netguard waits
_SETTLED_SECONDS = 10.0  # for what the same policy has to close, once it is known to be in force
_REPORT_SECONDS = 30.0
_FAMILIES = {4: "IPv4", 6: "IPv6"}

_LISTEN = """
import socket, threading
def serve(family, address):
    try:
        s = socket.socket(family)
        if family == socket.AF_INET6:
            s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((address, 8080)); s.listen(64)
    except OSError:
        return
    while True:
        c, _ = s.accept(); c.close()
threading.Thread(target=serve, args=(socket.AF_INET6, "::"), daemon=True).start()
serve(socket.AF_INET, "0.0.0.0")
threading.Event().wait()
"""

_DIAL = """
import json, os, socket, sys, time
def reaches(host, port):
    try:
        socket.create_connection((host, port), 1.0).close()
        return True
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
def asks(host):
    try:
        s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        s.settimeout(1.0); s.connect((host, 53))
        s.send(b"\\x76\\x70\\x01\\0\\0\\x01\\0\\0\\0\\0\\0\\0\\0\\0\\x01\\0\\x01"); s.recv(512)
        return True
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
api = (os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ["KUBERNETES_SERVICE_PORT"]))
nodes = [ip for ip in os.environ["NODE"].split(",") if ip]
names = [line.split()[1] for line in open("/etc/resolv.conf") if line.startswith("nameserver")]
while True:
    report = {"peers": {p: reaches(p, 8080) for p in sys.argv[1:]}, "api": reaches(*api)}
    report |= {"node": any(reaches(ip, 10250) for ip in nodes), "dns": any(asks(name) for name in names)}
    print(json.dumps(report), flush=True)
    time.sleep(0.3)
"""


async def network(kubectl: Kubectl, image: str) -> list[Finding]:
    """Try it in this namespace. One finding per address family."""
    await _apply(kubectl, pod("listener", image, command=["python3", "-c", _LISTEN]))
    try:
        addresses = await _addresses(kubectl, "listener")
        await _apply(kubectl, pod("dialler", image, command=["python3", "-c", _DIAL, *addresses.values()]))
        await _addresses(kubectl, "dialler")
        seen = await _observe(kubectl, addresses)
    except ClusterUnavailable as error:
        return [findings.skipped("NetworkPolicy", str(error)[:160], "is the image there, with python3, and pullable without a secret?")]
    return [findings.network(_FAMILIES[family], seen[address]) for family, address in addresses.items()]


def pod(name: str, image: str, *, command: list[str]) -> dict[str, Any]:
    """A pod that the `restricted` level admits."""
    container = {
        "name": name,
        "image": image,
        "command": command,
        "env": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIPs"}}}],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "automountServiceAccountToken": False,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
        },
    }


async def _observe(kubectl: Kubectl, addresses: dict[int, str]) -> dict[str, dict[str, bool | None]]:
    seen: dict[str, dict[str, bool | None]] = {
        address: dict.fromkeys(("before", "denied", "canary", "dns", "node", "allowed"), False) for address in addresses.values()
    }
    async with contextlib.aclosing(kubectl.follow_log("dialler")) as reports:
        await _until(reports, seen, "before", lambda report, address: report["peers"][address])
        await _apply(kubectl, _policy("deny", {}))
        await _until(reports, seen, "denied", lambda report, address: not report["peers"][address])
        if not any(facts["denied"] for facts in seen.values()):
            return seen  # nobody enforces anything here: the rest would only wait
        await _until(reports, seen, "canary", lambda report, address: not report["api"])
        await _until(reports, seen, "dns", lambda report, address: not report["dns"], seconds=_SETTLED_SECONDS)
        await _until(reports, seen, "node", lambda report, address: not report["node"], seconds=_SETTLED_SECONDS)
        await _apply(kubectl, _policy("allow-in", {"app": "listener"}, ingress="dialler"))
        await _apply(kubectl, _policy("allow-out", {"app": "dialler"}, egress="listener"))
        await _until(reports, seen, "allowed", lambda report, address: report["peers"][address] and not report["api"])
    return seen


async def _until(
    reports: AsyncIterator[str],
    seen: dict[str, dict[str, bool | None]],
    what: str,
    holds: Callable[[dict[str, Any], str], bool],
    *,
    seconds: float = _POLICY_SECONDS,
) -> None:
    """Read reports until `what` holds for every address, or the time is over. One family's failure does not end the others' observation."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not all(facts[what] for facts in seen.values()) and loop.time() < deadline:
        try:
            async with asyncio.timeout(_REPORT_SECONDS):
                report = json.loads(await anext(reports))
        except (TimeoutError, StopAsyncIteration, ValueError) as error:
            raise ClusterUnavailable("the probe pods fell silent") from error
        for address, facts in seen.items():
            facts[what] = facts[what] or holds(report, address)


async def _addresses(kubectl: Kubectl, name: str) -> dict[int, str]:
    """A running pod's addresses by family."""
    try:
        async with asyncio.timeout(_START_SECONDS), contextlib.aclosing(kubectl.watch("pod", name)) as changes:
            async for found in changes:
                status = found.get("status", {})
                if status.get("phase") == "Running":
                    addresses = [item["ip"] for item in status.get("podIPs", [])]
                    return {6 if ":" in address else 4: address for address in addresses}
                if status.get("phase") in ("Failed", "Succeeded"):
                    raise ClusterUnavailable(f"the probe pod {name} ended instead of running")
                if reason := _stuck(status):
                    raise ClusterUnavailable(f"the probe pod {name} does not start: {reason}")
    except TimeoutError as error:
        raise ClusterUnavailable(f"the probe pod {name} did not start in {_START_SECONDS:.0f} s") from error
    raise ClusterUnavailable(f"the probe pod {name} could not be watched")


def _stuck(status: dict[str, Any]) -> str:
    for container in status.get("containerStatuses", []):
        reason = container.get("state", {}).get("waiting", {}).get("reason", "")
        if reason in STUCK:
            return str(reason)
    return ""


def _policy(name: str, selector: dict[str, str], *, ingress: str = "", egress: str = "") -> dict[str, Any]:
    spec: dict[str, Any] = {"podSelector": {"matchLabels": selector} if selector else {}}
    ports = [{"protocol": "TCP", "port": PORT}]
    if ingress:
        spec |= {"policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": ingress}}}], "ports": ports}]}
    elif egress:
        spec |= {"policyTypes": ["Egress"], "egress": [{"to": [{"podSelector": {"matchLabels": {"app": egress}}}], "ports": ports}]}
    else:
        spec |= {"policyTypes": ["Ingress", "Egress"]}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name}, "spec": spec}


async def _apply(kubectl: Kubectl, body: dict[str, Any]) -> None:
    """Create, once the new namespace takes pods: its ServiceAccount comes a moment later."""
    for _ in range(20):
        answer = await kubectl.run("create", "--filename", "-", text=json.dumps(body))
        if not answer.code:
            return
        if "serviceaccount" not in answer.stderr.lower():
            raise ClusterUnavailable(f"cannot create the probe {body['kind']}: {answer.stderr.strip()[:200]}")
        await asyncio.sleep(0.5)
    raise ClusterUnavailable("the cluster does not make a ServiceAccount for a new namespace")
