"""The objects of an OnionRelay: what its pods may do, who is selected by what, and names that no two relays share."""

import itertools

import pytest

from veilpod.kube import relay_manifests

OWNER = {"metadata": {"name": "alpha", "namespace": "relays", "uid": "u"}}


def deployment(ordinal=0, identity_secret=None):
    return relay_manifests.deployment(
        OWNER, ordinal, release="north", image="relay@sha256:00", port=9001, drain=60, operator_cert="Y2VydA==",
        log_level="INFO", identity_secret=identity_secret,
    )  # fmt: skip


def pod_labels(ordinal):
    return deployment(ordinal)["spec"]["template"]["metadata"]["labels"]


def test_the_pod_is_restricted_and_holds_no_secret():
    body = deployment()
    pod = body["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert "volumes" not in pod
    assert "env" not in container
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert body["spec"]["selector"]["matchLabels"].items() <= body["spec"]["template"]["metadata"]["labels"].items()
    service = relay_manifests.service(OWNER, 0, release="north", port=9001)
    assert [port["port"] for port in service["spec"]["ports"]] == [9001]  # neither control nor metrics
    assert service["spec"]["selector"].items() <= body["spec"]["template"]["metadata"]["labels"].items()
    assert service["metadata"]["ownerReferences"][0]["uid"] == "u"


@pytest.mark.parametrize("ordinal", [0, 3])
def test_the_pod_gets_its_own_entry_of_the_secret_as_a_file_and_nothing_else_of_it(ordinal):
    pod = deployment(ordinal, "kept")["spec"]["template"]["spec"]
    (container,), (volume,) = pod["containers"], pod["volumes"]
    assert volume["secret"]["secretName"] == "kept"
    assert volume["secret"]["items"] == [{"key": f"identity-{ordinal}", "path": "key"}]
    assert volume["secret"]["defaultMode"] == 0o400
    assert volume["secret"]["optional"] is True  # the relay says that it is missing, in a word; the kubelet would say it in events only
    (mount,) = container["volumeMounts"]
    assert mount["readOnly"] is True
    assert f"--identity-file={mount['mountPath']}/key" in container["args"]
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]
    assert not {"env", "envFrom"} & container.keys()
    assert not any("kept" in argument for argument in container["args"])


def test_another_secret_is_another_pod():
    assert deployment(0, "kept")["spec"]["template"] != deployment(0, "other")["spec"]["template"]


def test_an_evicted_pod_has_the_time_that_its_circuits_have():
    assert deployment()["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 70


@pytest.mark.parametrize("ordinal", [0, 1])
def test_a_replicas_address_and_deployment_select_its_pod_and_no_others(ordinal):
    for selector in (
        deployment(ordinal)["spec"]["selector"]["matchLabels"],
        relay_manifests.service(OWNER, ordinal, release="north", port=9001)["spec"]["selector"],
    ):
        assert selector.items() <= pod_labels(ordinal).items()
        assert not selector.items() <= pod_labels(1 - ordinal).items()


def test_one_budget_lets_one_replica_go_at_a_time_and_never_none():
    budget = relay_manifests.budget(OWNER, release="north")
    assert budget["spec"]["maxUnavailable"] == 1  # of a single replica too: `kubectl drain` ends, and the pod drains
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert all(budget["spec"]["selector"]["matchLabels"].items() <= pod_labels(ordinal).items() for ordinal in (0, 1))
    assert budget["metadata"]["ownerReferences"][0]["uid"] == "u"


def test_no_two_replicas_of_any_relays_have_one_name_and_the_first_is_named_as_ever():
    assert relay_manifests.object_name("alpha", 0) == "relay-alpha"
    places = list(itertools.product(["a", "a-1", "1-a", "a-1-1", "1"], range(16)))
    assert len({relay_manifests.object_name(*place) for place in places}) == len(places)
    words = {relay_manifests.labels(release="north", relay=name, ordinal=n)[relay_manifests.NAME_LABEL] for name, n in places}
    assert len(words) == len(places)
