"""What a pod's JSON says about a sandbox: pure reading, and the evidence of its end spelled out.

Dead is a container that the kubelet reports terminated, or one that never began (waiting, without a container id). A pod that no node
ever took has no containers to die. Anything that cannot be read counts as alive.
"""

import datetime
from collections.abc import Mapping
from typing import Any

from veilpod.core.ids import PodUid
from veilpod.core.task.exit_codes import CANARY_REACHABLE, PEER_UNREACHABLE, PROBE_FAILED
from veilpod.core.task.snapshot import PodSeen

FINALIZER = "veilpod.dev/evidence"
INTENT_ANNOTATION = "veilpod.dev/intent"
INCARNATION_LABEL = "veilpod.dev/incarnation"
AGENT = "agent"
# What the kubelet says of a container that it cannot start, in our words: its messages name nodes and registries.
STUCK = {
    "ErrImagePull": "ImageUnavailable",
    "ImagePullBackOff": "ImageUnavailable",
    "ErrImageNeverPull": "ImageUnavailable",
    "ImageInspectError": "ImageUnavailable",
    "InvalidImageName": "ImageUnavailable",
    "RegistryUnavailable": "ImageUnavailable",
    "SignatureValidationFailed": "ImageUnavailable",
    "CreateContainerConfigError": "ContainerRefused",
    "CreateContainerError": "ContainerRefused",
    "RunContainerError": "ContainerRefused",
}
NODE_PATIENCE = 60  # seconds behind a deletion's grace after which its node counts as lost


def read_pod(pod: Mapping[str, Any], *, nonce: str, now: float) -> PodSeen:
    """Read a pod with an assignment's labels. `nonce`: of the recorded intent."""
    metadata, status = pod["metadata"], pod.get("status", {})
    deleting = "deletionTimestamp" in metadata
    terminated = _terminated(pod)
    late = deleting and now > _seconds(metadata["deletionTimestamp"]) + NODE_PATIENCE
    label = metadata.get("labels", {}).get(INCARNATION_LABEL, "0")
    exits = {code for item in _statuses(pod) if item["name"] == AGENT for code in _exit_codes(item)}
    return PodSeen(
        uid=PodUid(metadata["uid"]),
        name=metadata["name"],
        incarnation=int(label) if label.isdecimal() else 0,
        intended=bool(nonce) and metadata.get("annotations", {}).get(INTENT_ANNOTATION) == nonce,
        deleting=deleting,
        terminated=terminated,
        kubelet_done=deleting and metadata.get("deletionGracePeriodSeconds") == 0,
        finalizer=FINALIZER in metadata.get("finalizers", []),
        agent_image=next((image_digest(item["image"]) for item in _containers(pod) if item["name"] == AGENT), ""),
        images_match=_images_match(pod),
        restarted=any(item.get("restartCount", 0) > 0 for item in _statuses(pod)),
        ended=status.get("phase") in ("Failed", "Succeeded"),
        node_lost=late and not terminated,
        has_address=bool(status.get("podIP")),
        refused=CANARY_REACHABLE in exits,
        unproved=not exits.isdisjoint({PEER_UNREACHABLE, PROBE_FAILED}),
        stuck=_stuck(status, _statuses(pod)),
    )


def image_digest(image: str) -> str:
    """The `sha256:…` part of an image named by digest, "" when there is none."""
    _, _, digest = image.rpartition("sha256:")
    return "sha256:" + digest if digest and len(digest) == 64 else ""


def _terminated(pod: Mapping[str, Any]) -> bool:
    statuses = _statuses(pod)
    if not statuses:
        return not pod["spec"].get("nodeName") or pod.get("status", {}).get("phase") in ("Failed", "Succeeded")
    return all(_dead(item) for item in statuses)


def _dead(status: Mapping[str, Any]) -> bool:
    state = status.get("state") or {}
    if "terminated" in state:
        return True
    return "waiting" in state and not status.get("containerID") and not status.get("started")


def _stuck(status: Mapping[str, Any], containers: list[Mapping[str, Any]]) -> str:
    if any(item["type"] == "PodScheduled" and item.get("reason") == "Unschedulable" for item in status.get("conditions") or []):
        return "Unschedulable"
    waits = (((item.get("state") or {}).get("waiting") or {}).get("reason", "") for item in containers)
    return next((STUCK[reason] for reason in waits if reason in STUCK), "")


def _exit_codes(status: Mapping[str, Any]) -> set[int | None]:
    """How a container ended, and how the one before it did."""
    return {(status.get(which) or {}).get("terminated", {}).get("exitCode") for which in ("state", "lastState")}


def _images_match(pod: Mapping[str, Any]) -> bool | None:
    """Whether what the kubelet runs is what was named. None while the agent's image is not told; the program's comes later or never."""
    wanted = {item["name"]: image_digest(item["image"]) for item in _containers(pod)}
    told = {item["name"]: image_digest(item.get("imageID", "")) for item in _statuses(pod) if item.get("imageID")}
    if any(digest != wanted.get(name) for name, digest in told.items()):
        return False
    return True if AGENT in told else None


def _containers(pod: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"].get("containers", [])]


def _statuses(pod: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    status = pod.get("status", {})
    return [
        item for name in ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses") for item in status.get(name) or []
    ]


def _seconds(timestamp: str) -> float:
    return datetime.datetime.fromisoformat(timestamp).timestamp()
