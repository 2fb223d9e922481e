"""NetworkPolicy is enforced, and exactly as Kubernetes says: real pods, real packets."""

from collections.abc import Iterator

import pytest

from localcluster import inspect, layout
from tests.e2e import netpol_world
from tests.e2e.conftest import Cluster
from tests.e2e.netpol_cases import CASES, DENY_ALL, DENY_EGRESS, DENY_INGRESS, Case, ns, pod, policy, to_x, to_xa
from tests.e2e.netpol_world import World

pytestmark = pytest.mark.e2e

EVERYTHING = CASES[0]
API_SERVER = (layout.API_SERVICE_ADDRESS, 443, "TCP")


@pytest.fixture(scope="module")
def pods(cluster: Cluster, base_image: str) -> World:
    return netpol_world.create(cluster, base_image)


@pytest.fixture
def world(pods: World) -> Iterator[World]:
    yield pods
    pods.forget_policies()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title.replace(" ", "-"))
def test_policies_leave_open_what_they_say_and_nothing_else(world: World, case: Case) -> None:
    if case.policies:
        world.cluster.apply(*case.policies)
    world.expect(case)


def test_a_block_of_addresses_excludes_its_exceptions(world: World) -> None:
    excepted = world.addresses["y/a"]
    block = {"ipBlock": {"cidr": layout.POD_NETWORK, "except": [f"{excepted}/32"]}}
    world.cluster.apply(policy("p", pods=pod("a"), egress=[{"to": [block]}]))
    world.expect(Case("except", (), lambda probe: probe.source != "x/a" or probe.target != "y/a"))

    # Another policy may allow what one excepts: policies only ever add.
    world.cluster.apply(policy("q", pods=pod("a"), egress=[{"to": [{"ipBlock": {"cidr": f"{excepted}/32"}}]}]))
    world.expect(EVERYTHING)


def test_an_ingress_block_names_sources(world: World) -> None:
    source = {"ipBlock": {"cidr": f"{world.addresses['z/b']}/32"}}
    world.cluster.apply(policy("p", ingress=[{"from": [source]}]))
    world.expect(Case("ingress block", (), to_x(lambda probe: probe.source == "z/b")))


def test_an_updated_policy_an_updated_pod_and_an_updated_namespace_count_at_once(world: World) -> None:
    kubectl = world.cluster.kubectl
    world.cluster.apply(
        policy("p", pods=pod("a"), ingress=[{"from": [{"namespaceSelector": ns("changed"), "podSelector": pod("changed")}]}])
    )
    world.expect(Case("nobody has the labels yet", (), to_xa(lambda probe: False)))
    try:
        kubectl("label", "namespace", "y", "ns=changed", "--overwrite")
        kubectl("label", "pod", "-n", "y", "b", "pod=changed", "--overwrite")
        world.expect(Case("one pod has both labels", (), to_xa(lambda probe: probe.source == "y/b")))
    finally:
        kubectl("label", "namespace", "y", "ns=y", "--overwrite")
        kubectl("label", "pod", "-n", "y", "b", "pod=b", "--overwrite")
    world.cluster.apply(policy("p", pods=pod("a"), ingress=[{"from": [{"namespaceSelector": ns("z")}]}]))
    world.expect(Case("the policy says something else", (), to_xa(lambda probe: probe.source[0] == "z")))


def test_the_api_server_is_a_destination_like_any_other(world: World) -> None:
    node = (layout.NODE_ADDRESS, layout.API_PORT, "TCP")
    world.expect_answer("x/a", API_SERVER, True)
    world.cluster.apply(DENY_EGRESS)
    for target in (API_SERVER, node, (layout.NODE_ADDRESS, 10250, "TCP")):
        world.expect_answer("x/a", target, False)
    # Behind the service's address is the node's: that is what a policy has to name, here as on other clusters.
    block = {"ipBlock": {"cidr": f"{layout.NODE_ADDRESS}/32"}}
    world.cluster.apply(policy("p", pods=pod("a"), egress=[{"to": [block], "ports": [{"port": layout.API_PORT}]}]))
    world.expect_answer("x/a", API_SERVER, True)
    world.expect_answer("x/b", API_SERVER, False)


def test_a_service_is_no_way_around_a_policy(world: World) -> None:
    address = world.cluster.get("service", "-n", "x", "a")["spec"]["clusterIP"]
    world.expect_answer("y/a", (address, 8000, "TCP"), True)
    # A pod always reaches itself, also through a service.
    world.cluster.apply(DENY_ALL)
    world.expect_answer("y/a", (address, 8000, "TCP"), False)
    world.expect_answer("x/a", (address, 8000, "TCP"), True)


def test_names_resolve_only_as_far_as_egress_goes(world: World) -> None:
    dns = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
    }
    name = ("a.y.svc.cluster.local.", 8000, "TCP")
    world.expect_answer("x/a", name, True)
    world.cluster.apply(DENY_EGRESS)
    world.expect_answer("x/a", name, False)
    allowed = [{"to": [dns], "ports": [{"port": 53, "protocol": "UDP"}]}, {"to": [{"namespaceSelector": ns("y")}]}]
    world.cluster.apply(policy("p", pods=pod("a"), egress=allowed))
    world.expect_answer("x/a", name, True)


def test_the_kubelet_reaches_a_pod_that_nobody_may_reach(world: World, base_image: str) -> None:
    world.cluster.apply(DENY_INGRESS, netpol_world.pod_manifest("x", "late", base_image))
    try:
        # Ready means that the kubelet's probe, which comes from the node, got through.
        world.cluster.kubectl("wait", "-n", "x", "--for=condition=Ready", "pod/late", "--timeout=30s")
    finally:
        world.cluster.kubectl("delete", "pod", "-n", "x", "late")


def test_a_gvisor_pod_is_no_exception(world: World, base_image: str) -> None:
    manifest = netpol_world.pod_manifest("x", "sandbox", base_image)
    manifest["spec"]["runtimeClassName"] = "gvisor"
    world.cluster.apply(manifest)
    try:
        world.cluster.kubectl("wait", "-n", "x", "--for=condition=Ready", "pod/sandbox", "--timeout=60s")
        inside = (world.cluster.get("pod", "-n", "x", "sandbox")["status"]["podIP"], 80, "TCP")
        for answer in (True, False):
            world.expect_answer("x/sandbox", API_SERVER, answer)
            world.expect_answer("y/a", inside, answer)
            world.cluster.apply(DENY_ALL)
    finally:
        world.cluster.kubectl("delete", "pod", "-n", "x", "sandbox")


def test_enforcement_can_be_switched_off_and_on(world: World) -> None:
    world.cluster.apply(DENY_ALL)
    closed = Case("deny", DENY_ALL, lambda probe: "x/" not in probe.source + probe.target)
    world.expect(closed)
    inspect.switch_netpol(world.cluster.name, on=False)
    try:
        world.expect(EVERYTHING)
    finally:
        inspect.switch_netpol(world.cluster.name, on=True)
    world.expect(closed)
