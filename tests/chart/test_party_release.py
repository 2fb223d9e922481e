"""What a party installs: an operator with few rights, a store that knows no secret, a fenced place for sandboxes."""

import subprocess

import jsonschema
import pytest
import yaml

from localcluster import toolchain
from tests.chart.conftest import CHART, ROLES, ROOT, Helm, Manifest, Rendered, digest, party
from veilpod.control.config import parse
from veilpod.control.metrics import Metrics
from veilpod.watchtower.metrics import NAMES as WATCHTOWER_METRICS

FENCED = "hospital-sandboxes"
COMPUTE = {
    "capacity": 7,
    "stake": "5000000000000000000",
    "canaries": ["198.51.100.7:443"],
    "watchtowers": [{"url": "https://tower.example", "address": "0x" + "ab" * 20}],
}


@pytest.fixture(scope="module")
def everything(helm: Helm) -> Rendered:
    values = party(*ROLES, podDisruptionBudget={"enabled": True}, relay={"create": True, "spec": {"exit": {"allow": "None"}}})
    return helm.render(values | {"monitoring": dict.fromkeys(("podMonitor", "prometheusRule", "dashboard"), True)})


def rules_of(release: Rendered) -> list[Manifest]:
    return [rule for kind in ("Role", "ClusterRole") for role in release.of(kind) for rule in role["rules"]]


def volume_sources(pod: Manifest) -> list[str]:
    return [key for volume in pod["volumes"] for key in volume if key != "name"]


# -- rights


def test_no_role_has_a_star_or_touches_secrets_or_enters_pods(party_release: Rendered, cluster_release: Rendered):
    for rule in rules_of(party_release) + rules_of(cluster_release):
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        assert not {"secrets", "configmaps", "pods/exec", "pods/attach", "pods/portforward", "pods/ephemeralcontainers"} & set(
            rule["resources"]
        )
    for rule in rules_of(party_release):
        owning = all(resource.endswith("/finalizers") for resource in rule["resources"])
        assert set(rule["verbs"]) <= ({"update"} if owning else {"get", "list", "watch", "create", "patch", "delete"})


@pytest.mark.parametrize(
    ("role", "kinds"),
    [
        ("requester", {"computetasks"}),
        ("compute", {"taskassignments", "statechannels"}),
        ("storage", {"datasets"}),
        ("relay", {"onionrelays"}),
    ],
)
def test_an_operator_has_the_kinds_of_its_role_and_no_others(helm: Helm, role, kinds):
    rules = helm.render(party(role)).one("Role", "north-operator")["rules"]
    held = {resource.partition("/")[0] for rule in rules if rule["apiGroups"] == ["veilpod.dev"] for resource in rule["resources"]}
    assert held == kinds


def test_the_requesters_operator_may_not_create_or_delete_what_users_write(helm: Helm):
    rules = helm.render(party("requester")).one("Role", "north-operator")["rules"]
    verbs = {verb for rule in rules if "computetasks" in rule["resources"] for verb in rule["verbs"]}
    assert verbs == {"get", "list", "watch", "patch"}


def test_a_relay_owners_operator_makes_addresses_pods_and_budgets_and_takes_away_only_the_first_two(helm: Helm):
    rules = helm.render(party("relay")).one("Role", "north-operator")["rules"]
    verbs = {resource: set(rule["verbs"]) for rule in rules for resource in rule["resources"]}
    assert verbs["poddisruptionbudgets"] == {"create", "patch"}
    assert verbs["services"] == {"get", "list", "create", "patch", "delete"}
    assert verbs["deployments"] == {"get", "create", "patch", "delete"}
    assert verbs["pods"] == {"get", "list", "watch"}


def test_among_the_sandboxes_an_operator_writes_pods_and_nothing_else(helm: Helm):
    rules = helm.render(party("compute")).one("Role", "north-operator", FENCED)["rules"]
    writable = {resource for rule in rules for resource in rule["resources"] if set(rule["verbs"]) - {"get", "list", "watch"}}
    assert writable == {"pods"}


def test_only_a_computing_server_is_bound_to_anything_cluster_wide(party_release: Rendered):
    bound = party_release.of("ClusterRoleBinding")
    assert [binding["roleRef"]["name"] for binding in bound] == (["veilpod-compute"] if party_release.of("Namespace") else [])
    assert not party_release.of("ClusterRole")


# -- the one secret


def test_the_chain_key_is_mounted_and_never_read_through_the_api(everything: Rendered):
    assert not everything.of("Secret")
    for pod in everything.pod_specs:
        secrets = [volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume]
        assert secrets == ["chain-key"]
        for container in pod["containers"] + pod.get("initContainers", []):
            assert "env" not in container
            assert "envFrom" not in container


def test_a_store_never_sees_the_key_from_which_its_certificate_is_made(everything: Rendered):
    for name in ("north-store", "north-mailbox"):
        pod = everything.one("StatefulSet", name)["spec"]["template"]["spec"]
        assert [container["name"] for container in pod["initContainers"]] == ["certificate"]
        (store,) = pod["containers"]
        assert "key" not in {mount["name"] for mount in store["volumeMounts"]}
        assert pod["automountServiceAccountToken"] is False
        control = next(volume for volume in pod["volumes"] if volume["name"] == "control")
        assert control["emptyDir"]["medium"] == "Memory"


# -- pods


def test_every_image_is_named_by_digest_and_behind_the_registry(helm: Helm):
    release = helm.render(party(*ROLES) | {"images": party()["images"] | {"registry": "registry.example/veilpod/"}})
    images = {container["image"] for pod in release.pod_specs for container in pod["containers"] + pod.get("initContainers", [])}
    assert images == {f"registry.example/veilpod/veilpod-operator@{digest('a')}", f"registry.example/veilpod/veilpod-store@{digest('d')}"}


def test_every_pod_would_pass_the_restricted_standard(everything: Rendered):
    for pod in everything.pod_specs:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert set(volume_sources(pod)) <= {"configMap", "secret", "emptyDir", "persistentVolumeClaim"}
        for container in pod["containers"] + pod.get("initContainers", []):
            security = container["securityContext"]
            assert security == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
            assert "memory" in container["resources"]["limits"]


def test_there_is_one_operator_at_a_time(party_release: Rendered):
    spec = party_release.one("Deployment", "north-operator")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_the_volume_with_the_newest_channel_states_survives_an_uninstall(party_release: Rendered):
    claim = party_release.one("PersistentVolumeClaim", "north-operator")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


@pytest.mark.parametrize("roles", [*[(role,) for role in ROLES], ROLES])
def test_the_operator_understands_the_configuration_that_the_chart_writes(helm: Helm, roles):
    release = helm.render(party(*roles, compute=COMPUTE))
    config = parse(yaml.safe_load(release.one("ConfigMap", "north-operator")["data"]["config.yaml"]))
    assert (config.release, config.namespace, set(config.roles)) == ("north", "hospital", set(roles))
    assert (config.chain.chain_id, config.chain.scheduler) == (31337, "0x" + "2" * 40)
    assert str(config.key_file) == "/veilpod/key/key"
    if "compute" in roles:
        assert (config.sandbox_namespace, config.compute.capacity, config.compute.stake) == (FENCED, 7, 5 * 10**18)
        (guard,) = config.compute.watchtowers
        assert (guard.url, guard.address.lower()) == ("https://tower.example", "0x" + "ab" * 20)
        assert config.images["agent"] == f"veilpod-agent@{digest('b')}"
    services = {service["metadata"]["name"] for service in release.of("Service")}
    assert {name for name in (config.store_service, config.mailbox_service) if name} <= services


def test_a_second_endpoint_reaches_the_operator_and_none_is_none(helm: Helm):
    values = party("requester")
    urls = []
    for change in ({}, {"crossCheckUrl": "https://other.example"}):
        release = helm.render(values | {"chain": values["chain"] | change})
        urls.append(parse(yaml.safe_load(release.one("ConfigMap", "north-operator")["data"]["config.yaml"])).chain.cross_check_url)
    assert urls == ["", "https://other.example"]


def test_a_changed_configuration_restarts_the_operator(helm: Helm):
    first, second = (
        helm.render(party("compute", compute={"capacity": capacity})).one("Deployment", "north-operator")["spec"]["template"]["metadata"]
        for capacity in (4, 5)
    )
    assert first["annotations"]["veilpod.dev/config"] != second["annotations"]["veilpod.dev/config"]


# -- networks


def policy(release: Rendered, name: str, namespace: str | None = None) -> Manifest:
    spec: Manifest = release.one("NetworkPolicy", name, namespace)["spec"]
    return spec


def test_sandboxes_reach_relays_on_one_port_and_are_reached_by_their_operator_on_one(everything: Rendered):
    assert policy(everything, "default-deny", FENCED) == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    (out,) = policy(everything, "to-relays", FENCED)["egress"]
    assert out == {
        "to": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"veilpod.dev/component": "relay"}}}],
        "ports": [{"protocol": "TCP", "port": 9001}],
    }
    (into,) = policy(everything, "from-operator", FENCED)["ingress"]
    (peer,) = into["from"]
    assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "hospital"}
    operator = everything.one("Deployment", "north-operator")["spec"]["template"]["metadata"]["labels"]
    assert peer["podSelector"]["matchLabels"].items() <= operator.items()
    assert into["ports"] == [{"protocol": "TCP", "port": 7443}]


def test_relays_outside_the_cluster_are_reached_by_address(helm: Helm):
    compute = {"relayCIDRs": ["203.0.113.0/24"], "relayPort": 9443, "relayNamespaceLabels": {"team": "relays"}}
    (out,) = policy(helm.render(party("compute", compute=compute)), "to-relays", FENCED)["egress"]
    assert out["to"][0]["namespaceSelector"] == {"matchLabels": {"team": "relays"}}
    assert out["to"][1] == {"ipBlock": {"cidr": "203.0.113.0/24"}}
    assert out["ports"] == [{"protocol": "TCP", "port": 9443}]


@pytest.mark.parametrize("name", ["north-store", "north-mailbox", "north-relay"])
def test_control_streams_are_open_to_the_own_operator_alone(everything: Rendered, name):
    doors = [rule for rule in policy(everything, name)["ingress"] if {"protocol": "TCP", "port": 7443} in rule["ports"]]
    (door,) = doors
    (peer,) = door["from"]
    assert peer["podSelector"]["matchLabels"] == {"veilpod.dev/component": "operator", "app.kubernetes.io/instance": "north"}


def test_relays_leave_to_relays_and_stores_only(everything: Rendered):
    rules = policy(everything, "north-relay")["egress"]
    targets = [(rule["to"][0]["podSelector"]["matchLabels"]["veilpod.dev/component"], rule["ports"][0]["port"]) for rule in rules]
    assert targets == [("relay", 9001), ("store", 9101)]
    for name in ("north-store", "north-mailbox"):
        assert everything.one("StatefulSet", name)["spec"]["template"]["metadata"]["labels"]["veilpod.dev/component"] == "store"


def test_the_fence_around_sandboxes_has_no_switch(helm: Helm):
    release = helm.render(party(*ROLES, networkPolicy={"enabled": False}))
    assert {item["metadata"]["namespace"] for item in release.of("NetworkPolicy")} == {FENCED}
    assert len(release.of("NetworkPolicy")) == 3


# -- the sandboxes' namespace


def test_the_sandboxes_namespace_is_marked_restricted_and_names_its_operator(everything: Rendered):
    (namespace,) = everything.of("Namespace")
    labels, annotations = namespace["metadata"]["labels"], namespace["metadata"]["annotations"]
    assert labels["veilpod.dev/sandboxes"] == "true"
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    account = everything.one("ServiceAccount", "north-operator")["metadata"]["name"]
    assert annotations["veilpod.dev/operator"] == f"system:serviceaccount:hospital:{account}"
    quota = everything.one("ResourceQuota", "sandboxes", FENCED)["spec"]["hard"]
    assert {name for name, amount in quota.items() if amount == "0"} >= {"secrets", "services", "persistentvolumeclaims"}
    sandbox = everything.one("ServiceAccount", "sandbox", FENCED)
    assert sandbox["automountServiceAccountToken"] is False
    assert not any(subject["name"] == "sandbox" for binding in everything.of("RoleBinding") for subject in binding["subjects"])


def test_an_uninstall_leaves_the_fence_standing(everything: Rendered):
    fence = everything.of("Namespace") + [item for item in everything.of("NetworkPolicy") if item["metadata"].get("namespace") == FENCED]
    assert len(fence) == 4
    assert all(item["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for item in fence)


def test_a_relay_object_fits_its_kind(everything: Rendered):
    crd = yaml.safe_load((ROOT / "crds" / "onionrelays.yaml").read_text())
    (relay,) = everything.of("OnionRelay")
    jsonschema.validate(relay, crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    assert relay["spec"] == {"exit": {"allow": "None"}}


# -- monitoring


def test_alerts_and_panels_ask_for_metrics_that_the_operator_has(everything: Rendered):
    names = {sample for metric in Metrics().registry.collect() for sample in (metric.name, f"{metric.name}_total", f"{metric.name}_bucket")}
    (rule,) = everything.of("PrometheusRule")
    asked = [item["expr"] for group in rule["spec"]["groups"] for item in group["rules"]]
    board = yaml.safe_load(everything.one("ConfigMap", "north-dashboard")["data"]["veilpod.json"])
    asked += [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    for expression in asked:
        used = {word for word in _words(expression) if word.startswith("veilpod_") and word != "veilpod_dev_component"}
        assert used <= names | WATCHTOWER_METRICS, expression
    assert everything.one("ConfigMap", "north-dashboard")["metadata"]["labels"]["grafana_dashboard"] == "1"


def _words(expression: str) -> list[str]:
    return "".join(character if character.isalnum() or character == "_" else " " for character in expression).split()


def test_promtool_accepts_the_alerts_and_they_fire_as_described():
    promtool = toolchain.unpacked("prometheus") / "usr" / "bin" / "promtool"
    for command in (
        ["check", "rules", str(CHART / "files" / "alerts.yaml")],
        ["test", "rules", str(ROOT / "tests" / "chart" / "alerts_test.yaml")],
    ):
        result = subprocess.run([promtool, *command], capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 0, result.stdout + result.stderr


# -- names


def test_every_object_says_which_release_it_is_of(everything: Rendered, cluster_release: Rendered):
    for manifest in everything.manifests + cluster_release.manifests:
        assert manifest["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm", manifest["metadata"]["name"]


def test_two_releases_in_two_namespaces_share_no_cluster_wide_name(helm: Helm):
    def wide(namespace: str) -> set[tuple[str, str]]:
        release = helm.render(party(*ROLES), namespace=namespace)
        own = [item for item in release.manifests if item["kind"] in ("Namespace", "ClusterRole", "ClusterRoleBinding")]
        inside = {item["metadata"]["namespace"] for item in release.manifests if "namespace" in item["metadata"]}
        return {(item["kind"], item["metadata"]["name"]) for item in own} | {("in", name) for name in inside}

    assert not wide("north") & wide("south")


def test_a_release_package_carries_the_crds_that_the_link_points_to(helm: Helm, tmp_path):
    result = helm.run("package", str(CHART), "--destination", str(tmp_path))
    assert result.returncode == 0, result.stderr
    (package,) = tmp_path.glob("*.tgz")
    rendered = helm.run("template", "veilpod", str(package), "--kube-version", "1.37.2", values={"cluster": {"install": True}})
    assert rendered.stdout.count("kind: CustomResourceDefinition") == 6
