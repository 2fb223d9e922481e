"""The fence around sandboxes, tried by who would climb it: a tenant with every right in the namespace, an admin in a hurry."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from localcluster import waiting
from tests.e2e import fence_world
from tests.e2e.conftest import Cluster
from tests.e2e.fence_world import IMAGE, OPERATOR, RELEASE, SANDBOXES, SECONDS, TENANT, helm, refusal, sandbox
from tests.support.specs import star_spec
from veilpod.core.ids import ServerIndex, TaskId
from veilpod.core.sandbox_class import SandboxClass
from veilpod.kube.sandbox_pod import Assignment, sandbox_pod

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def fenced(cluster_release: Cluster) -> Iterator[Cluster]:
    with fence_world.party(cluster_release) as cluster:
        yield cluster


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
            canaries=["198.19.0.1:443", "udp://198.19.0.10:53", "node:10250"],
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
        ("containers.0.env", [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIPs"}}}], "plain public values"),
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
