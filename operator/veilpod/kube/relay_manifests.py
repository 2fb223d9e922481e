"""Manifests of one relay: a Deployment with one replica, and a Service that gives it a stable address. Pure builders.

The pod is restricted (Pod Security "restricted"), has a read-only root, no volume and no service account token: what it holds is in its
memory. The Service has the link port only; the operator reaches the control port at the pod's own address.
"""

from collections.abc import Mapping
from typing import Any

CONTROL_PORT = 7443
METRICS_PORT = 9090
NAME_LABEL = "veilpod.dev/relay"


def labels(*, release: str, relay: str) -> dict[str, str]:
    """Labels of everything that belongs to a relay; the network policies select by them."""
    return {
        "app.kubernetes.io/name": "veilpod",
        "app.kubernetes.io/instance": release,
        "app.kubernetes.io/component": "relay",
        "app.kubernetes.io/managed-by": "veilpod",
        "veilpod.dev/component": "relay",
        NAME_LABEL: relay,
    }


def object_name(relay: str) -> str:
    """Name of a relay's Deployment and Service."""
    return f"relay-{relay}"


def service(owner: Mapping[str, Any], *, release: str, port: int) -> dict[str, Any]:
    """The stable address of a relay's links."""
    return {
        "metadata": _metadata(owner, release),
        "spec": {
            "type": "ClusterIP",
            "selector": {"app.kubernetes.io/instance": release, NAME_LABEL: owner["metadata"]["name"]},
            "ports": [{"name": "links", "protocol": "TCP", "port": port, "targetPort": "links"}],
        },
    }


def deployment(
    owner: Mapping[str, Any], *, release: str, image: str, port: int, bandwidth: int, drain: int, operator_cert: str, log_level: str
) -> dict[str, Any]:
    """The relay's pod. `operator_cert` is the control certificate, DER in base64; it is no secret.

    Whoever ends the pod (a drained node, an eviction, a rollout) waits `drain` seconds at most for its circuits.
    """
    name = owner["metadata"]["name"]
    return {
        "metadata": _metadata(owner, release),
        "spec": {
            "replicas": 1,
            # Two pods would be two relays behind one address; an old one has to be gone first.
            "strategy": {"type": "Recreate"},
            "revisionHistoryLimit": 1,
            "selector": {"matchLabels": {"app.kubernetes.io/instance": release, NAME_LABEL: name}},
            "template": {
                "metadata": {"labels": labels(release=release, relay=name)},
                "spec": {
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "terminationGracePeriodSeconds": drain + 10,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": 65532,
                        "runAsGroup": 65532,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [_container(image, port, bandwidth, drain, operator_cert, log_level)],
                },
            },
        },
    }


def _container(image: str, port: int, bandwidth: int, drain: int, operator_cert: str, log_level: str) -> dict[str, Any]:
    return {
        "name": "relay",
        "image": image,
        "args": [
            f"--listen=0.0.0.0:{port}",
            f"--control=0.0.0.0:{CONTROL_PORT}",
            f"--metrics=0.0.0.0:{METRICS_PORT}",
            f"--bandwidth={bandwidth}",
            f"--drain-seconds={drain}",
            f"--operator-cert={operator_cert}",
            f"--log-level={log_level}",
        ],
        "ports": [
            {"name": "links", "containerPort": port, "protocol": "TCP"},
            {"name": "control", "containerPort": CONTROL_PORT, "protocol": "TCP"},
            {"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"},
        ],
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
        "resources": {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "512Mi"}},
        "readinessProbe": {"tcpSocket": {"port": "links"}, "periodSeconds": 5},
        "livenessProbe": {"tcpSocket": {"port": "links"}, "periodSeconds": 20, "failureThreshold": 3},
    }


def _metadata(owner: Mapping[str, Any], release: str) -> dict[str, Any]:
    metadata = owner["metadata"]
    return {
        "name": object_name(metadata["name"]),
        "namespace": metadata["namespace"],
        "labels": labels(release=release, relay=metadata["name"]),
        "ownerReferences": [
            {
                "apiVersion": "veilpod.dev/v1alpha1",
                "kind": "OnionRelay",
                "name": metadata["name"],
                "uid": metadata["uid"],
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
