"""What a cluster must offer, as pure rules over what was read from it. One finding each: verdict, what was found, what to do.

pass  it is so        fail  Veilpod would refuse to work, or could not keep a promise
warn  worth knowing   skip  not checked, and said so: never counted as passed
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

KERNEL = (6, 7)  # Landlock's rules for TCP ports, which confine programs that have some
MINIMUM = (1, 30)  # ValidatingAdmissionPolicy v1; native sidecars since 1.29
_MARKS = {"pass": "✓", "fail": "✗", "warn": "!", "skip": "·"}
KINDS = ("computetasks", "taskassignments", "statechannels", "onionrelays", "datasets", "sandboxclasses")

Object = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report."""

    check: str
    verdict: str  # pass | fail | warn | skip
    found: str
    remedy: str = ""

    @property
    def mark(self) -> str:
        """A sign for people."""
        return _MARKS[self.verdict]

    def document(self) -> dict[str, str]:
        """The JSON form."""
        return dataclasses.asdict(self)


def version(server: Object) -> Finding:
    """The API server's version."""
    text = str(server.get("gitVersion", "unknown"))
    found = re.match(r"v?(\d+)\.(\d+)", text)
    good = found is not None and (int(found.group(1)), int(found.group(2))) >= MINIMUM
    return _find("Kubernetes version", good, text, "Veilpod needs Kubernetes 1.30 or newer")


def admission(resources: Object | None) -> Finding:
    """Whether ValidatingAdmissionPolicy is served."""
    names = {item["name"] for item in (resources or {}).get("resources", [])}
    good = {"validatingadmissionpolicies", "validatingadmissionpolicybindings"} <= names
    remedy = "admissionregistration.k8s.io/v1 must serve ValidatingAdmissionPolicy: without it nothing keeps people out of sandboxes"
    return _find("admission policies", good, "served" if good else "not served", remedy)


def kinds(resources: Object | None) -> Finding:
    """Whether Veilpod's kinds are installed. Before the installation they are not, and that is fine."""
    served = {item["name"] for item in (resources or {}).get("resources", [])}
    missing = [name for name in KINDS if name not in served]
    if len(missing) == len(KINDS):
        return Finding(
            check="Veilpod's kinds",
            verdict="warn",
            found="not installed yet",
            remedy="a cluster admin installs them: --set cluster.install=true",
        )
    return _find(
        "Veilpod's kinds", not missing, "installed" if not missing else f"missing: {', '.join(missing)}", "upgrade the cluster's release"
    )


def nodes(items: Sequence[Object]) -> list[Finding]:
    """Kubelets, container runtimes and kernels."""
    linux = [item for item in items if item["status"]["nodeInfo"]["operatingSystem"] == "linux"]
    ready = [item for item in linux if _is_true(item["status"].get("conditions", []), "Ready")]
    runtimes = sorted({item["status"]["nodeInfo"]["containerRuntimeVersion"] for item in linux})
    old = sorted({v for item in linux if not _new_enough(v := item["status"]["nodeInfo"]["kubeletVersion"])})
    kernels = sorted({item["status"]["nodeInfo"]["kernelVersion"] for item in linux})
    without = [version for version in kernels if not _new_enough(version, KERNEL)]
    unknown = [name for name in runtimes if not name.startswith(("containerd://", "cri-o://"))]
    return [
        _find("Linux nodes", bool(ready), f"{len(ready)} ready of {len(items)}", "sandboxes need a Linux node that is Ready"),
        _find(
            "kubelets",
            not old,
            "1.30 or newer" if not old else ", ".join(old),
            "kubelets older than 1.30 do not sequence a sandbox's containers",
        ),
        Finding(
            check="container runtime",
            verdict="warn" if unknown else "pass",
            found=", ".join(runtimes) or "unknown",
            remedy="only containerd and CRI-O were tried: run the end-to-end tests before trusting it" if unknown else "",
        ),
        Finding(
            check="kernels",
            verdict="warn" if without else "pass",
            found=", ".join(without) if without else "6.7 or newer",
            remedy="programs with ports fail here: Linux 6.7 with Landlock, or a class with programConfinement: WhenSupported"
            if without
            else "",
        ),
    ]


def runtime_classes(present: Iterable[Object], wanted: Iterable[str]) -> list[Finding]:
    """Every RuntimeClass that a SandboxClass or the person names."""
    names = {item["metadata"]["name"] for item in present}
    remedy = "install the runtime and its RuntimeClass, or take the SandboxClass away: tasks of it are refused"
    return [_find(f"RuntimeClass {name}", name in names, "there" if name in names else "missing", remedy) for name in sorted(set(wanted))]


def storage(classes: Sequence[Object]) -> Finding:
    """A default StorageClass: operators and stores keep money and results on volumes."""
    mark = "storageclass.kubernetes.io/is-default-class"
    default = [item["metadata"]["name"] for item in classes if item["metadata"].get("annotations", {}).get(mark) == "true"]
    if default:
        return Finding(check="default StorageClass", verdict="pass", found=", ".join(default))
    return Finding(
        check="default StorageClass",
        verdict="warn",
        found="none",
        remedy="name one in persistence.storageClassName, storage.storageClassName and requester.mailbox.storageClassName",
    )


def sidecars(dry_run: Object | None, *, refusal: str = "") -> Finding:
    """Whether an init container's restartPolicy survives the API server. None: it refused the pod, with these words."""
    containers = (dry_run or {}).get("spec", {}).get("initContainers", [])
    good = any(item.get("restartPolicy") == "Always" for item in containers)
    found = "honoured" if good else "dropped" if dry_run is not None else f"the pod was refused: {' '.join(refusal.split())[:160]}"
    return _find("native sidecars", good, found, "turn the SidecarContainers feature on (default since 1.29)")


def pod_security(refusal: str | None) -> Finding:
    """Whether a namespace with `enforce: restricted` refuses a privileged pod. `refusal` is what the API server said, None if it agreed."""
    good = refusal is not None and "PodSecurity" in refusal
    found = "enforced" if good else "a privileged pod was admitted" if refusal is None else refusal[:80]
    return _find("Pod Security admission", good, found, "turn the PodSecurity admission plugin on")


def rights(missing: Sequence[str]) -> Finding:
    """What the person needs to install the cluster's part."""
    if not missing:
        return Finding(check="your rights", verdict="pass", found="enough to install the cluster's part")
    return Finding(
        check="your rights", verdict="warn", found=f"missing: {', '.join(missing)}", remedy="let a cluster admin install the cluster's part"
    )


# What each observation of the network means when it was not made, the first one first.
_NETWORK = (
    ("before", "fail", "pods cannot reach each other", "the network is broken before any policy: mend the CNI"),
    (
        "denied",
        "fail",
        "not enforced: a default-deny policy blocked nothing in time",
        "install a CNI that enforces NetworkPolicy (Calico, Cilium, Antrea, kube-router, ...)",
    ),
    (
        "canary",
        "fail",
        "half enforced: pods are fenced from each other, the API server stays reachable",
        "the CNI must apply egress policy to traffic to Services and the API server, too",
    ),
    (
        "dns",
        "fail",
        "half enforced: the cluster's name server answers over UDP, which carries data out",
        "the CNI must apply egress policy to UDP and to node-local name servers, too",
    ),
    ("allowed", "fail", "an allowed connection stays blocked", "the CNI does not honour podSelector with a port"),
    (
        "node",
        "warn",
        "enforced, but a pod reaches its own node, as NetworkPolicy allows: a class with the canary node:10250 is refused",
        "close pods' way to their node in the CNI, or take that canary out of the SandboxClass, knowing what it leaves open",
    ),
)


def network(family: str, seen: Mapping[str, bool | None]) -> Finding:
    """The observations of the network probes: before, denied, canary, dns, node, allowed (see `probes`)."""
    check = f"NetworkPolicy, {family}"
    for name, verdict, found, remedy in _NETWORK:
        if not seen[name]:
            return Finding(check=check, verdict=verdict, found=found, remedy=remedy)
    return Finding(check=check, verdict="pass", found="enforced: allowed reaches, denied does not, API server, DNS and node are fenced off")


def skipped(check: str, why: str, remedy: str) -> Finding:
    """A check that was not made."""
    return Finding(check=check, verdict="skip", found=why, remedy=remedy)


def _find(check: str, good: bool, found: str, remedy: str) -> Finding:
    return Finding(check=check, verdict="pass" if good else "fail", found=found, remedy="" if good else remedy)


def _new_enough(text: str, minimum: tuple[int, int] = MINIMUM) -> bool:
    found = re.match(r"v?(\d+)\.(\d+)", text)
    return found is not None and (int(found.group(1)), int(found.group(2))) >= minimum


def _is_true(conditions: Iterable[Object], kind: str) -> bool:
    return any(item["type"] == kind and item["status"] == "True" for item in conditions)
