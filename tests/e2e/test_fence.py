"""The fence around sandboxes, tried by who would climb it: a tenant with every right in the namespace, an admin in a hurry."""

import copy
import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from localcluster import layout, waiting
from tests.e2e.conftest import Cluster
from tests.support.specs import star_spec
from veilpod.core.ids import ServerIndex, TaskId
from veilpod.core.sandbox_class import SandboxClass
from veilpod.kube.sandbox_pod import Assignment, sandbox_pod

pytestmark = pytest.mark.e2e

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


def helm(cluster: Cluster, *arguments: str) -> "subprocess.CompletedProcess[str]":
    contracts = [f"chain.contracts.{name}=0x{'1' * 40}" for name in ("registry", "scheduler", "channels")]
    images = [f"images.{name}.digest=sha256:{'0' * 64}" for name in ("operator", "agent")]
    values = ["roles.compute=true", "chain.rpcUrl=http://198.19.255.1:1", "chain.keySecret.name=chain-key", *contracts, *images]
    command = ["helm", *arguments, RELEASE, str(layout.REPOSITORY / "helm" / "veilpod"), "--namespace", PARTY]
    return subprocess.run(
        [*command, "--set", ",".join(values), "--set", "chain.chainId=1"],
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def fenced(cluster_release: Cluster) -> Iterator[Cluster]:
    """A compute release, and a tenant who may do anything that RBAC can allow in its sandbox namespace."""
    cluster = cluster_release
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


# -- what stands around the pods


def test_the_release_installs_and_upgrades_through_its_own_fence(fenced: Cluster):
    result = helm(fenced, "upgrade")
    assert result.returncode == 0, result.stderr


def test_kubernetes_itself_passes_the_fence(fenced: Cluster):
    assert waiting.until(lambda: fenced.run("get", "configmap", "kube-root-ca.crt", "-n", SANDBOXES).returncode == 0, timeout=SECONDS)
    assert waiting.until(lambda: fenced.run("get", "serviceaccount", "default", "-n", SANDBOXES).returncode == 0, timeout=SECONDS)


OPEN_ALL = {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]}
POD_TEMPLATE = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": IMAGE}], "restartPolicy": "Always"}}
JOB_TEMPLATE = {"spec": POD_TEMPLATE["spec"] | {"restartPolicy": "Never"}}


@pytest.mark.parametrize(
    ("version", "kind", "body"),
    [
        ("networking.k8s.io/v1", "NetworkPolicy", {"spec": OPEN_ALL}),
        ("v1", "Secret", {"stringData": {"a": "b"}}),
        ("v1", "ConfigMap", {"data": {"a": "b"}}),
        ("v1", "ServiceAccount", {}),
        ("v1", "Service", {"spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}}),
        (
            "v1",
            "PersistentVolumeClaim",
            {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}},
        ),
        ("v1", "ResourceQuota", {"spec": {"hard": {"pods": "9"}}}),
        ("v1", "LimitRange", {"spec": {"limits": []}}),
        ("rbac.authorization.k8s.io/v1", "Role", {"rules": []}),
        ("apps/v1", "Deployment", {"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": POD_TEMPLATE}}),
        ("batch/v1", "Job", {"spec": {"template": JOB_TEMPLATE}}),
    ],
    ids=lambda value: value if isinstance(value, str) and value[0].isupper() else "",
)
def test_a_tenant_with_every_right_adds_nothing_beside_the_pods(fenced: Cluster, version, kind, body):
    document = {"apiVersion": version, "kind": kind, "metadata": {"name": "hole", "namespace": SANDBOXES}} | body
    said = refusal(fenced, "create", "--dry-run=server", *TENANT, document=document)
    assert "veilpod-sandbox-fence" in said
    assert "bind the ClusterRole veilpod-fence-keeper" in said


def test_a_tenant_takes_nothing_away_either(fenced: Cluster):
    for target in ("networkpolicy/default-deny", "serviceaccount/sandbox", "resourcequota/sandboxes", f"rolebinding/{RELEASE}-operator"):
        assert "veilpod-sandbox-fence" in refusal(fenced, "delete", target, "-n", SANDBOXES, *TENANT)
    patch = ("patch", "networkpolicy/to-relays", "-n", SANDBOXES, "--type=merge", "--patch", json.dumps({"spec": OPEN_ALL}))
    assert "veilpod-sandbox-fence" in refusal(fenced, *patch, *TENANT)
    assert "veilpod-sandbox-fence" in refusal(fenced, "create", "token", "sandbox", "-n", SANDBOXES, *TENANT)


def test_the_operator_itself_cannot_move_its_fence(fenced: Cluster):
    document = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "hole", "namespace": SANDBOXES},
        "spec": OPEN_ALL,
    }
    assert "cannot create resource" in refusal(fenced, "create", "--dry-run=server", f"--as={OPERATOR}", document=document)


def test_the_label_that_puts_a_namespace_behind_the_fence_stays(fenced: Cluster):
    said = refusal(fenced, "label", "namespace", SANDBOXES, "veilpod.dev/sandboxes-", *TENANT)
    assert "veilpod-sandbox-namespace" in said
    assert "veilpod-sandbox-namespace" in refusal(
        fenced, "label", "namespace", SANDBOXES, "--overwrite", "pod-security.kubernetes.io/enforce=privileged", *TENANT
    )
    assert "veilpod-sandbox-namespace" in refusal(
        fenced, "annotate", "namespace", SANDBOXES, "--overwrite", "veilpod.dev/operator=tenant", *TENANT
    )
    # Nor is anybody else's namespace drawn behind it.
    assert "veilpod-sandbox-namespace" in refusal(fenced, "label", "namespace", "default", "veilpod.dev/sandboxes=true", *TENANT)
    fenced.kubectl("label", "namespace", "default", "team=a", "--dry-run=server", *TENANT)


def test_who_keeps_the_fence_may_change_it(fenced: Cluster):
    document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "note", "namespace": SANDBOXES}, "data": {}}
    keeper = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "veilpod-fence-keeper"}
    binding = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "fence-test-keeper"}}
    fenced.apply(binding | {"roleRef": keeper, "subjects": [{"apiGroup": keeper["apiGroup"], "kind": "User", "name": "tenant"}]})
    try:
        create = ("create", "--dry-run=server", "--filename=-", *TENANT)
        assert waiting.until(lambda: fenced.run(*create, stdin=json.dumps(document)).returncode == 0, timeout=SECONDS)
    finally:
        fenced.kubectl("delete", "clusterrolebinding", "fence-test-keeper")


# -- what a pod may be


@pytest.mark.parametrize("sandbox_class", [SandboxClass(name="standard"), SandboxClass(name="sandboxed", runtime_class="gvisor")])
def test_the_pods_that_the_operator_really_builds_are_sandboxes(fenced: Cluster, sandbox_class):
    for index in range(3):
        built = sandbox_pod(
            name=f"built-{index}",
            namespace=SANDBOXES,
            release=RELEASE,
            assignment=Assignment(name="ta-0", task=TaskId(bytes(32)), index=ServerIndex(index), incarnation=1),
            spec=star_spec(),
            sandbox_class=sandbox_class,
            agent_image=IMAGE,
            operator_cert=b"certificate",
            relay_endpoints=["198.18.0.9:9001"],
            canaries=["198.19.0.1:443"],
            deadline_seconds=600,
        )
        fenced.kubectl("create", "--dry-run=server", "--filename=-", f"--as={OPERATOR}", stdin=json.dumps(built))


def test_the_operator_makes_a_sandbox_and_nobody_else_does(fenced: Cluster):
    fenced.kubectl("create", "--dry-run=server", "--filename=-", f"--as={OPERATOR}", stdin=json.dumps(sandbox()))
    for who in (TENANT, ("--as=admin", "--as-group=system:masters")):
        assert "only the operator of this namespace makes sandboxes" in refusal(
            fenced, "create", "--dry-run=server", *who, document=sandbox()
        )


SECRET = {"name": "A", "valueFrom": {"secretKeyRef": {"name": "chain-key", "key": "key"}}}


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("automountServiceAccountToken", True, "no Kubernetes token"),
        ("serviceAccountName", "default", "no Kubernetes token"),
        ("enableServiceLinks", True, "does not learn of services"),
        ("shareProcessNamespace", True, "shares no namespace"),
        ("hostAliases", [{"ip": "192.0.2.1", "hostnames": ["a"]}], "shares no namespace"),
        ("restartPolicy", "OnFailure", "never revived"),
        ("activeDeadlineSeconds", None, "never revived"),
        ("terminationGracePeriodSeconds", 30, "at most 10"),
        ("dnsPolicy", "Default", "has no DNS"),
        ("volumes.0.emptyDir", {}, "emptyDirs in memory"),
        ("volumes.0.emptyDir", {"medium": "Memory"}, "emptyDirs in memory"),
        ("volumes.0", {"name": "scratch", "secret": {"secretName": "chain-key"}}, "emptyDirs in memory"),
        ("volumes.0", {"name": "scratch", "configMap": {"name": "kube-root-ca.crt"}}, "emptyDirs in memory"),
        ("volumes.0", {"name": "scratch", "projected": {"sources": [{"serviceAccountToken": {"path": "a"}}]}}, "emptyDirs in memory"),
        ("volumes.1.downwardAPI.items.0.fieldRef.fieldPath", "metadata.labels", "emptyDirs in memory"),
        ("containers.0.image", "registry.example/seal:latest", "named by digest"),
        ("initContainers.0.image", "registry.example/agent", "named by digest"),
        ("containers.0.securityContext.readOnlyRootFilesystem", False, "read-only root"),
        ("initContainers.0.securityContext.readOnlyRootFilesystem", None, "read-only root"),
        ("containers.0.securityContext.capabilities.add", ["NET_BIND_SERVICE"], "no capabilities"),
        ("containers.0.env", [SECRET], "plain public values"),
        ("initContainers.0.envFrom", [{"secretRef": {"name": "chain-key"}}], "plain public values"),
        ("containers.0.resources.requests.memory", "16Mi", "exactly its limits"),
        ("containers.0.resources", {}, "exactly its limits"),
        ("containers.0.lifecycle", {"preStop": {"exec": {"command": ["a"]}}}, "executed from outside"),
        ("initContainers.0.startupProbe", {"exec": {"command": ["a"]}}, "executed from outside"),
        ("containers.0.terminationMessagePolicy", "FallbackToLogsOnError", "executed from outside"),
        ("hostNetwork", True, "PodSecurity"),
        ("containers.0.securityContext.privileged", True, "Invalid value"),
        ("volumes.0", {"name": "scratch", "hostPath": {"path": "/"}}, "PodSecurity"),
    ],
)
def test_a_pod_that_is_no_sandbox_is_refused_even_to_the_operator(fenced: Cluster, path, value, words):
    document = copy.deepcopy(sandbox())
    node: Any = document["spec"]
    *parents, last = (int(key) if key.isdigit() else key for key in path.split("."))
    for key in parents:
        node = node[key]
    if value is None:
        del node[last]
    else:
        node[last] = value
    assert words in refusal(fenced, "create", "--dry-run=server", f"--as={OPERATOR}", document=document)


# -- a running sandbox


@pytest.fixture(scope="module")
def running(fenced: Cluster, base_image: str) -> Iterator[str]:
    fenced.kubectl("create", "--filename=-", f"--as={OPERATOR}", stdin=json.dumps(sandbox(base_image, "running")))
    fenced.kubectl("wait", "pod/running", "-n", SANDBOXES, "--for=condition=Ready", f"--timeout={SECONDS}s")
    yield "running"
    release = ("patch", "pod/running", "-n", SANDBOXES, "--type=merge", "--patch", '{"metadata":{"finalizers":null}}', f"--as={OPERATOR}")
    fenced.run("delete", "pod/running", "-n", SANDBOXES, "--wait=false")
    fenced.run(*release)


def test_nobody_gets_into_a_sandbox(fenced: Cluster, running: str):
    inside = ("-n", SANDBOXES, running)
    for command in (
        ("exec", *inside, "--", "python3"),
        ("attach", *inside),
        ("get", "--raw", f"/api/v1/namespaces/{SANDBOXES}/pods/{running}/proxy/"),
        ("debug", *inside, f"--image={IMAGE}", "--profile=restricted"),
    ):
        assert "nobody gets into a sandbox" in refusal(fenced, *command)
    forward = fenced.run("create", "--raw", f"/api/v1/namespaces/{SANDBOXES}/pods/{running}/portforward", "--filename=-", stdin="{}")
    assert "nobody gets into a sandbox" in forward.stderr


def test_a_sandbox_is_not_resized_while_it_runs(fenced: Cluster, running: str):
    patch = {"spec": {"containers": [{"name": "seal", "resources": {kind: {"cpu": "30m"} for kind in ("requests", "limits")}}]}}
    said = refusal(fenced, "patch", "pod", running, "-n", SANDBOXES, "--subresource=resize", "--patch", json.dumps(patch))
    assert "nobody gets into a sandbox" in said


def test_destruction_is_not_faked_by_force(fenced: Cluster, running: str):
    one = ("delete", "pod", running, "-n", SANDBOXES, "--force", "--grace-period=0")
    everything = ("delete", "pods", "--all", "-n", SANDBOXES, "--force", "--grace-period=0")
    for command in (one, everything, (*one, *TENANT), (*one, f"--as={OPERATOR}")):
        assert "never deleted by force" in refusal(fenced, *command)
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": running, "namespace": SANDBOXES},
        "deleteOptions": {"gracePeriodSeconds": 0},
    }
    path = f"/api/v1/namespaces/{SANDBOXES}/pods/{running}/eviction"
    assert "never evicted by force" in refusal(fenced, "create", "--raw", path, document=eviction)
    assert "deletionTimestamp" not in fenced.get("pod", running, "-n", SANDBOXES)["metadata"]


def test_destruction_is_not_faked_in_the_status(fenced: Cluster, running: str):
    pod = fenced.get("pod", running, "-n", SANDBOXES)["status"]
    ended = [item | {"state": {"terminated": {"exitCode": 0}}, "ready": False, "started": False} for item in pod["containerStatuses"]]
    for status in ({"phase": "Succeeded"}, {"containerStatuses": ended}, {"initContainerStatuses": []}, {"podIP": "198.51.100.1"}):
        patch = (
            "patch",
            "pod",
            running,
            "-n",
            SANDBOXES,
            "--subresource=status",
            "--type=merge",
            "--patch",
            json.dumps({"status": status}),
        )
        for who in ((), TENANT):
            assert "only its node says" in refusal(fenced, *patch, *who)


def test_only_the_operator_lets_the_evidence_go(fenced: Cluster, running: str):
    patch = ("patch", "pod", running, "-n", SANDBOXES, "--type=merge", "--patch", '{"metadata":{"finalizers":null}}')
    for extra in ((), TENANT, ("--subresource=status",), ("--subresource=status", *TENANT)):
        said = refusal(fenced, *patch, *extra)
        assert "takes the finalizer veilpod.dev/evidence away" in said or "only the operator of this namespace" in said
    assert fenced.get("pod", running, "-n", SANDBOXES)["metadata"]["finalizers"] == [FINALIZER]


def test_a_graceful_end_is_the_nodes_word_and_the_operators_last_act(fenced: Cluster, base_image: str):
    name = "ending"
    fenced.kubectl("create", "--filename=-", f"--as={OPERATOR}", stdin=json.dumps(sandbox(base_image, name)))
    fenced.kubectl("wait", f"pod/{name}", "-n", SANDBOXES, "--for=condition=Ready", f"--timeout={SECONDS}s")
    fenced.kubectl("delete", "pod", name, "-n", SANDBOXES, "--wait=false", f"--as={OPERATOR}")

    def destroyed() -> bool:
        pod = fenced.get("pod", name, "-n", SANDBOXES)
        states = [item["state"] for key in ("containerStatuses", "initContainerStatuses") for item in pod["status"][key]]
        return pod["metadata"].get("deletionGracePeriodSeconds") == 0 and all("terminated" in state for state in states)

    assert waiting.until(destroyed, timeout=SECONDS)
    release = ("patch", "pod", name, "-n", SANDBOXES, "--type=merge", "--patch", '{"metadata":{"finalizers":null}}')
    fenced.kubectl(*release, f"--as={OPERATOR}")
    assert waiting.until(lambda: "NotFound" in fenced.run("get", "pod", name, "-n", SANDBOXES).stderr, timeout=SECONDS)


# -- what the operator may


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        (("create", "pods"), True),
        (("watch", "networkpolicies.networking.k8s.io"), True),
        (("get", "secrets"), False),
        (("list", "secrets"), False),
        (("create", "pods", "--subresource=exec"), False),
        (("patch", "pods", "--subresource=status"), False),
        (("create", "networkpolicies.networking.k8s.io"), False),
        (("get", "configmaps"), False),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_the_operator_has_few_rights_among_its_sandboxes(fenced: Cluster, asked, allowed):
    answer = fenced.run("auth", "can-i", *asked, "-n", SANDBOXES, f"--as={OPERATOR}")
    assert (answer.stdout.strip() == "yes") is allowed


def test_the_operator_reads_the_policies_that_protect_it_by_name(fenced: Cluster):
    for name in ("fence", "access", "pods", "evidence", "namespace"):
        for kind in ("validatingadmissionpolicy", "validatingadmissionpolicybinding"):
            fenced.kubectl("get", kind, f"veilpod-sandbox-{name}", f"--as={OPERATOR}")
    assert "cannot list" in refusal(fenced, "get", "validatingadmissionpolicies", f"--as={OPERATOR}")
    fenced.kubectl("get", "sandboxclasses,runtimeclasses", f"--as={OPERATOR}")
