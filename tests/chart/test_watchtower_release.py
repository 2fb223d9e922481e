"""What a watchtower's owner installs: one process, one hot key, no Kubernetes, a volume that outlives it."""

import pathlib

import pytest

from tests.chart.conftest import Helm, Manifest, Rendered, digest, tower
from veilpod.watchtower.settings import Settings, parse

SETTINGS = {
    "keySecret": {"name": "hot-key"},
    "cap": "5",
    "capPeriod": 3600,
    "maxFeePerGas": "7",
    "guardDays": 2,
    "parties": ["0x" + "ab" * 20],
}


@pytest.fixture(scope="module")
def alone(helm: Helm) -> Rendered:
    return helm.render(tower(podDisruptionBudget={"enabled": True}))


@pytest.fixture(scope="module")
def beside(helm: Helm) -> Rendered:
    return helm.render(tower("compute"))


def pod(release: Rendered) -> Manifest:
    spec: Manifest = release.one("Deployment", "north-watchtower")["spec"]["template"]["spec"]
    return spec


def understood(release: Rendered) -> Settings:
    (container,) = pod(release)["containers"]
    assert container["command"] == ["python3", "-m", "veilpod.watchtower"]
    return parse(container["args"])


def test_a_tower_of_its_own_needs_no_operator_and_no_rights(alone: Rendered):
    assert [item["metadata"]["name"] for item in alone.of("Deployment")] == ["north-watchtower"]
    for kind in ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "Namespace", "ConfigMap", "Secret", "StatefulSet"):
        assert not alone.of(kind), kind


@pytest.mark.parametrize("release", ["alone", "beside"])
def test_it_has_no_token_and_an_account_of_its_own(request: pytest.FixtureRequest, release: str):
    rendered: Rendered = request.getfixturevalue(release)
    spec = pod(rendered)
    assert spec["automountServiceAccountToken"] is False
    account = rendered.one("ServiceAccount", spec["serviceAccountName"])
    assert account["automountServiceAccountToken"] is False
    assert not any(subject["name"] == account["metadata"]["name"] for item in rendered.of("RoleBinding") for subject in item["subjects"])


def test_beside_a_server_it_holds_the_hot_key_and_never_the_chain_key(beside: Rendered):
    assert [volume["secret"]["secretName"] for volume in pod(beside)["volumes"] if "secret" in volume] == ["hot-key"]
    operator = beside.one("Deployment", "north-operator")["spec"]["template"]["spec"]
    assert [volume["secret"]["secretName"] for volume in operator["volumes"] if "secret" in volume] == ["chain-key"]
    assert "watchtower" not in beside.one("ConfigMap", "north-operator")["data"]["config.yaml"].split("chain:")[0]


def test_it_is_hardened_as_everything_of_ours(alone: Rendered):
    spec = pod(alone)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = spec["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert "memory" in container["resources"]["limits"]
    assert container["image"] == f"veilpod-watchtower@{digest('e')}"


def test_there_is_never_a_second_one_with_its_key_and_its_states_survive_an_uninstall(alone: Rendered):
    spec = alone.one("Deployment", "north-watchtower")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    assert alone.one("PersistentVolumeClaim", "north-watchtower")["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert alone.one("PodDisruptionBudget", "north-watchtower")["spec"]["maxUnavailable"] == 0


def test_the_process_understands_the_arguments_that_the_chart_writes(helm: Helm, alone: Rendered):
    settings = understood(helm.render(tower(watchtower=SETTINGS)))
    assert (settings.cap, settings.period, settings.max_fee, settings.keep) == (5, 3600, 7, 2 * 86_400)
    assert [party.lower() for party in settings.parties] == ["0x" + "ab" * 20]
    assert (settings.chain_id, settings.contracts.channels) == (31337, "0x" + "3" * 40)
    assert settings.key_file == pathlib.Path("/veilpod/key/key")
    default = understood(alone)
    assert default.admin.host == "127.0.0.1", "what is guarded is not for the network"
    assert default.cap >= 150_000 * default.max_fee, "the default cap pays for an answer"
    assert default.keep == 90 * 86_400


def test_large_numbers_are_not_spelled_as_floats(helm: Helm):
    settings = understood(helm.render(tower(watchtower={**SETTINGS, "capPeriod": 31_536_000, "guardDays": 3650, "cap": str(10**21)})))
    assert (settings.period, settings.keep, settings.cap) == (31_536_000, 3650 * 86_400, 10**21)


def test_anybody_may_hand_in_a_state_unless_the_owner_says_who(helm: Helm, alone: Rendered):
    policy = alone.one("NetworkPolicy", "north-watchtower")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == [{"ports": [{"protocol": "TCP", "port": 9201}]}]
    clients = [{"namespaceSelector": {"matchLabels": {"team": "servers"}}}]
    egress = [{"to": [{"ipBlock": {"cidr": "203.0.113.7/32"}}]}]
    narrow = helm.render(tower(networkPolicy={"watchtowerClients": clients, "watchtowerEgress": egress}))
    policy = narrow.one("NetworkPolicy", "north-watchtower")["spec"]
    assert (policy["ingress"][0]["from"], policy["egress"]) == (clients, egress)
    assert not helm.render(tower(networkPolicy={"enabled": False})).of("NetworkPolicy")


def test_its_metrics_are_collected_with_the_others(helm: Helm):
    release = helm.render(tower(monitoring=dict.fromkeys(("podMonitor", "prometheusRule"), True)))
    (monitor,) = release.of("PodMonitor")
    (labels,) = monitor["spec"]["selector"]["matchExpressions"]
    assert (
        release.one("Deployment", "north-watchtower")["spec"]["template"]["metadata"]["labels"]["veilpod.dev/component"] in labels["values"]
    )
    assert release.of("PrometheusRule")
