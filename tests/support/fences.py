"""What a cluster's admin and a compute release put around sandboxes, for clusters in memory."""

from tests.support.fake_cluster import FakeCluster

from veilpod.control import policies
from veilpod.core.kinds import ADMISSION_BINDINGS, ADMISSION_POLICIES, NAMESPACES, NETWORK_POLICIES

NAMESPACE = "party-sandboxes"


def put_fences(cluster: FakeCluster, namespace: str) -> None:
    """Make the sandbox namespace with its network policies, and the admission policies with their bindings."""
    for name in policies.NETWORK:
        spec = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        cluster.put(NETWORK_POLICIES, {"metadata": {"name": name}, "spec": spec}, namespace=namespace)
    for name in policies.ADMISSION:
        rule = {"failurePolicy": "Fail", "validations": [{"expression": "false"}]}
        cluster.put(ADMISSION_POLICIES, {"metadata": {"name": name}, "spec": rule})
        cluster.put(ADMISSION_BINDINGS, {"metadata": {"name": name}, "spec": {"policyName": name, "validationActions": ["Deny"]}})
    labels = {"veilpod.dev/sandboxes": "true", "pod-security.kubernetes.io/enforce": "restricted"}
    cluster.put(NAMESPACES, {"metadata": {"name": namespace, "labels": labels}})
