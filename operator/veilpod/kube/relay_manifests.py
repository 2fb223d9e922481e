"""Manifests of one OnionRelay: for each replica a Deployment of one pod and a Service that gives it a stable address; one budget for all.

A replica is a relay of its own and shares nothing with the others: a Deployment of two pods would be two relays behind one address. The pod
is restricted (Pod Security "restricted"), has a read-only root and no service account token: what it holds is in its memory. The one
volume that it may have is its own entry of the Secret that its owner named (ADR 16).
The Service has the link port only; the operator reaches the control port at the pod's own address. Pure builders.
"""

from collections.abc import Mapping
from typing import Any

from veilpod.core.onion import relay_identity

CONTROL_PORT = 7443
METRICS_PORT = 9090
NAME_LABEL = "veilpod.dev/relay"  # one replica
SET_LABEL = "veilpod.dev/onionrelay"  # all replicas of one OnionRelay
ORDINAL_LABEL = "veilpod.dev/ordinal"
_USER = 65532
_IDENTITY = "/veilpod/identity"


def labels(*, release: str, relay: str, ordinal: int) -> dict[str, str]:
    """Labels of everything that belongs to a replica; the network policies select by them."""
    return {
        "app.kubernetes.io/name": "veilpod",
        "app.kubernetes.io/instance": release,
        "app.kubernetes.io/component": "relay",
        "app.kubernetes.io/managed-by": "veilpod",
        "veilpod.dev/component": "relay",
        NAME_LABEL: _replica(relay, ordinal),
        SET_LABEL: relay,
        ORDINAL_LABEL: str(ordinal),
    }


def set_selector(*, release: str, relay: str) -> dict[str, str]:
    """What selects all replicas of an OnionRelay."""
    return {"app.kubernetes.io/instance": release, SET_LABEL: relay}


def object_name(relay: str, ordinal: int) -> str:
    """Name of a replica's Deployment and Service: relay-x, relay1-x. With the number behind, x's second one would be x-1's first."""
    return f"relay{ordinal or ''}-{relay}"


def service(owner: Mapping[str, Any], ordinal: int, *, release: str, port: int) -> dict[str, Any]:
    """The stable address of a replica's links."""
    return {
        "metadata": _metadata(owner, release, ordinal),
        "spec": {
            "type": "ClusterIP",
            "selector": _selector(owner, release, ordinal),
            "ports": [{"name": "links", "protocol": "TCP", "port": port, "targetPort": "links"}],
        },
    }


def budget(owner: Mapping[str, Any], *, release: str) -> dict[str, Any]:
    """Let whoever drains a node evict one replica at a time.

    A single replica may be evicted as well: none allowed would block `kubectl drain` until a person came, and an evicted pod does not cut
    its circuits, it drains for `drainSeconds`. One that does not serve holds nothing up: it has nobody to wait for.
    """
    relay = owner["metadata"]["name"]
    return {
        "metadata": _metadata(owner, release, 0),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": set_selector(release=release, relay=relay)},
        },
    }


def deployment(
    owner: Mapping[str, Any],
    ordinal: int,
    *,
    release: str,
    image: str,
    port: int,
    drain: int,
    operator_cert: str,
    log_level: str,
    identity_secret: str | None,
) -> dict[str, Any]:
    """A replica's pod. `operator_cert` is the control certificate, DER in base64; it is no secret. `identity_secret` is only a name.

    Whoever ends the pod (a drained node, an eviction, a rollout) waits `drain` seconds at most for its circuits.
    """
    args = [
        f"--listen=0.0.0.0:{port}",
        f"--control=0.0.0.0:{CONTROL_PORT}",
        f"--metrics=0.0.0.0:{METRICS_PORT}",
        f"--drain-seconds={drain}",
        f"--operator-cert={operator_cert}",
        f"--log-level={log_level}",
    ]
    user: dict[str, Any] = {"runAsUser": _USER, "runAsGroup": _USER}
    container, volumes = _container(image, port, args), {}
    if identity_secret is not None:
        args.append(f"--identity-file={_IDENTITY}/key")
        user["fsGroup"] = _USER  # the volume is root's, and this group may read it
        container["volumeMounts"] = [{"name": "identity", "mountPath": _IDENTITY, "readOnly": True}]
        volumes = {"volumes": [_identity(identity_secret, ordinal)]}
    return {
        "metadata": _metadata(owner, release, ordinal),
        "spec": {
            "replicas": 1,
            # Two pods would be two relays behind one address; an old one has to be gone first.
            "strategy": {"type": "Recreate"},
            "revisionHistoryLimit": 1,
            "selector": {"matchLabels": _selector(owner, release, ordinal)},
            "template": {
                "metadata": {"labels": labels(release=release, relay=owner["metadata"]["name"], ordinal=ordinal)},
                "spec": {
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "terminationGracePeriodSeconds": drain + 10,
                    "securityContext": {"runAsNonRoot": True, **user, "seccompProfile": {"type": "RuntimeDefault"}},
                    "containers": [container],
                    **volumes,
                },
            },
        },
    }


def _container(image: str, port: int, args: list[str]) -> dict[str, Any]:
    return {
        "name": "relay",
        "image": image,
        "args": args,
        "ports": [
            {"name": "links", "containerPort": port, "protocol": "TCP"},
            {"name": "control", "containerPort": CONTROL_PORT, "protocol": "TCP"},
            {"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"},
        ],
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
        "resources": {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "512Mi"}},
        # Ready once its operator has listed it: before that nobody can use it, and the budget lets no other replica go.
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "metrics"}, "periodSeconds": 5},
        "livenessProbe": {"tcpSocket": {"port": "links"}, "periodSeconds": 20, "failureThreshold": 3},
    }


def _identity(secret: str, ordinal: int) -> dict[str, Any]:
    """A replica's entry and no other, whatever else the Secret holds.

    Optional, so that the pod starts without it and the relay can say that it is missing: it ends then. Nobody may write the file; for the
    group the kubelet adds the right to read.
    """
    items = [{"key": relay_identity.entry(ordinal), "path": "key"}]
    return {"name": "identity", "secret": {"secretName": secret, "items": items, "defaultMode": 0o400, "optional": True}}


def _replica(relay: str, ordinal: int) -> str:
    """A replica's own word in labels; no name has an underscore, so it is no other relay's."""
    return f"{relay}_{ordinal}" if ordinal else relay


def _selector(owner: Mapping[str, Any], release: str, ordinal: int) -> dict[str, str]:
    return {"app.kubernetes.io/instance": release, NAME_LABEL: _replica(owner["metadata"]["name"], ordinal)}


def _metadata(owner: Mapping[str, Any], release: str, ordinal: int) -> dict[str, Any]:
    metadata = owner["metadata"]
    return {
        "name": object_name(metadata["name"], ordinal),
        "namespace": metadata["namespace"],
        "labels": labels(release=release, relay=metadata["name"], ordinal=ordinal),
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
