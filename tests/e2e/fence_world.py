"""A compute release with its fence, a pod that the fence lets in, and a tenant with every right that RBAC can give behind it."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from typing import Any

from localcluster import layout, waiting
from tests.e2e.conftest import Cluster

Manifest = dict[str, Any]

PARTY, RELEASE = "fence-test", "north"
SANDBOXES = f"{PARTY}-sandboxes"
OPERATOR = f"system:serviceaccount:{PARTY}:{RELEASE}-operator"
FINALIZER = "veilpod.dev/evidence"
# All rights in the namespace, and the right to change the namespace itself, as somebody's cluster role may grant them.
TENANT = ("--as=tenant", "--as-group=system:authenticated")
IMAGE = "registry.example/none@sha256:" + "0" * 64
SECONDS = 60


def container(image: str, command: list[str]) -> Manifest:
    return {
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": command,
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
        "resources": {kind: {"cpu": "20m", "memory": "32Mi"} for kind in ("requests", "limits")},
        "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],
    }


def sandbox(image: str = IMAGE, name: str = "sandbox") -> Manifest:
    """A pod with everything that the fence asks for."""
    wait = ["python3", "-c", "import signal; signal.signal(15, lambda *_: exit(0)); signal.pause()"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": SANDBOXES, "finalizers": [FINALIZER]},
        "spec": {
            "serviceAccountName": "sandbox",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "restartPolicy": "Never",
            "activeDeadlineSeconds": 600,
            "terminationGracePeriodSeconds": 5,
            "dnsPolicy": "None",
            "dnsConfig": {"nameservers": ["127.0.0.1"]},
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "initContainers": [container(image, wait) | {"name": "agent", "restartPolicy": "Always"}],
            "containers": [container(image, wait) | {"name": "seal"}],
            "volumes": [
                {"name": "scratch", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
                {"name": "uid", "downwardAPI": {"items": [{"path": "uid", "fieldRef": {"fieldPath": "metadata.uid"}}]}},
            ],
        },
    }


def helm(cluster: Cluster, *arguments: str, party: str = PARTY, release: str = RELEASE) -> "subprocess.CompletedProcess[str]":
    contracts = [f"chain.contracts.{name}=0x{'1' * 40}" for name in ("registry", "scheduler", "channels")]
    images = [f"images.{name}.digest=sha256:{'0' * 64}" for name in ("operator", "agent")]
    values = ["roles.compute=true", "chain.rpcUrl=http://198.19.255.1:1", "chain.keySecret.name=chain-key", *contracts, *images]
    command = ["helm", *arguments, release, str(layout.REPOSITORY / "helm" / "veilpod"), "--namespace", party]
    return subprocess.run(
        [*command, "--set", ",".join(values), "--set", "chain.chainId=1"],
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@contextlib.contextmanager
def party(cluster: Cluster) -> Iterator[Cluster]:
    """Install a compute release, with a tenant who may do anything that RBAC can allow in its sandbox namespace."""
    result = helm(cluster, "install", "--create-namespace")
    assert result.returncode == 0, result.stderr
    anything = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "fence-test-tenant"}}
    tenant = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "tenant"}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "fence-test-tenant"}
    namespaces = {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "update", "patch"]}
    cluster.apply(
        role | {"kind": "ClusterRole", "rules": [namespaces]},
        role | {"kind": "ClusterRoleBinding", "roleRef": reference, "subjects": [tenant]},
        {**role, "kind": "Role", "metadata": {"name": "tenant", "namespace": SANDBOXES}, "rules": [anything]},
        {
            **role,
            "kind": "RoleBinding",
            "metadata": {"name": "tenant", "namespace": SANDBOXES},
            "roleRef": reference | {"kind": "Role", "name": "tenant"},
            "subjects": [tenant],
        },
    )
    assert waiting.until(lambda: cluster.run("auth", "can-i", "create", "pods", "-n", SANDBOXES, *TENANT).returncode == 0, timeout=SECONDS)
    yield cluster
    result = subprocess.run(["helm", "uninstall", RELEASE, "--namespace", PARTY], env=cluster.environment, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    cluster.kubectl("delete", "clusterrole,clusterrolebinding", "fence-test-tenant")
    # The controllers of Kubernetes pass the fence, or a namespace would never end.
    cluster.kubectl("delete", "namespace", SANDBOXES, PARTY, f"--timeout={SECONDS}s")


def refusal(cluster: Cluster, *arguments: str, document: Manifest | None = None) -> str:
    stdin = json.dumps(document) if document is not None else None
    result = cluster.run(*arguments, *(("--filename=-",) if document is not None else ()), stdin=stdin)
    assert result.returncode != 0, f"not refused: {result.stdout}"
    return result.stderr
