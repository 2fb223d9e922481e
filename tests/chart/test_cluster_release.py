"""What an admin installs once: kinds, classes, the fence."""

import pathlib

import jsonschema
import pytest
import yaml

from tests.chart.conftest import ROOT, Helm, Rendered

KINDS = {"computetasks", "taskassignments", "statechannels", "onionrelays", "datasets", "sandboxclasses"}
CRD_FILES = sorted((ROOT / "crds").glob("*.yaml"))


def schema_of(crd):
    return crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def fields(schema, path=""):
    """Every node of a structural schema with its path."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from fields(child, f"{path}.{name}")
    if "items" in schema:
        yield from fields(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from fields(schema["additionalProperties"], f"{path}{{}}")


def test_the_release_brings_each_crd_as_it_is_in_its_one_source(cluster_release: Rendered):
    rendered = {crd["spec"]["names"]["plural"]: crd for crd in cluster_release.of("CustomResourceDefinition")}
    assert set(rendered) == KINDS
    for path in CRD_FILES:
        source = yaml.safe_load(path.read_text())
        assert rendered[source["spec"]["names"]["plural"]]["spec"] == source["spec"]


def test_crds_are_kept_on_uninstall_unless_told_otherwise(cluster_release: Rendered, helm: Helm):
    for crd in cluster_release.of("CustomResourceDefinition"):
        assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    for crd in helm.render({"cluster": {"install": True}, "crds": {"keep": False}}).of("CustomResourceDefinition"):
        assert "annotations" not in crd["metadata"]
    assert not helm.render({"cluster": {"install": True}, "crds": {"enabled": False}}).of("CustomResourceDefinition")


@pytest.mark.parametrize("path", CRD_FILES, ids=lambda path: path.stem)
def test_every_field_is_described_and_bounded(path: pathlib.Path):
    for where, schema in fields(schema_of(yaml.safe_load(path.read_text()))):
        if where.endswith(("metadata", "apiVersion", "kind")):
            continue
        assert schema.get("description"), f"{where} has no description"
        if schema.get("type") == "string":
            assert "maxLength" in schema or "enum" in schema or "format" in schema, f"{where} is unbounded"
        if schema.get("type") == "array":
            assert "maxItems" in schema, f"{where} is unbounded"
        if schema.get("type") == "integer":
            assert "minimum" in schema, f"{where} may be negative"


@pytest.mark.parametrize("path", CRD_FILES, ids=lambda path: path.stem)
def test_every_kind_feels_native(path: pathlib.Path):
    spec = yaml.safe_load(path.read_text())["spec"]
    version = spec["versions"][0]
    assert spec["names"]["categories"] == ["veilpod"]
    assert len(spec["names"]["shortNames"]) == 1
    scale = {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicaCount"}
    assert version["subresources"] == {"status": {}} | ({"scale": scale} if path.stem == "onionrelays" else {})
    assert version["additionalPrinterColumns"][-1]["name"] == "Age"
    conditions = schema_of({"spec": spec})["properties"]["status"]["properties"]["conditions"]
    assert (conditions["x-kubernetes-list-type"], conditions["x-kubernetes-list-map-keys"]) == ("map", ["type"])


@pytest.mark.parametrize("path", CRD_FILES, ids=lambda path: path.stem)
def test_every_rule_says_something_and_defaults_satisfy_their_own_schema(path: pathlib.Path):
    for where, schema in fields(schema_of(yaml.safe_load(path.read_text()))):
        for rule in schema.get("x-kubernetes-validations", []):
            assert len(rule["message"].split()) >= 4, f"{where}: {rule['rule']}"
        if "default" in schema:
            jsonschema.validate(schema["default"], schema)


def test_sandbox_classes_fit_their_kind_and_can_be_left_out(cluster_release: Rendered, helm: Helm):
    crd = next(crd for crd in cluster_release.of("CustomResourceDefinition") if crd["spec"]["names"]["kind"] == "SandboxClass")
    classes = {item["metadata"]["name"]: item for item in cluster_release.of("SandboxClass")}
    assert {name: item["spec"]["tier"] for name, item in classes.items()} == {"standard": "T0", "sandboxed": "T1"}
    for item in classes.values():
        jsonschema.validate(item, schema_of(crd))
        assert item["spec"]["denyHostAccess"] is True
    fewer = helm.render({"cluster": {"install": True, "sandboxClasses": {"sandboxed": None}}})
    assert [item["metadata"]["name"] for item in fewer.of("SandboxClass")] == ["standard"]


def test_every_policy_fails_closed_and_is_bound_to_deny(cluster_release: Rendered):
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in cluster_release.of("ValidatingAdmissionPolicy")}
    assert len(policies) == 5
    for spec in policies.values():
        assert spec["failurePolicy"] == "Fail"
        assert all(len(validation["message"].split()) >= 4 for validation in spec["validations"])
    bound = {binding["spec"]["policyName"]: binding for binding in cluster_release.of("ValidatingAdmissionPolicyBinding")}
    assert set(bound) == set(policies)
    for name, binding in bound.items():
        assert binding["metadata"]["name"] == name
        assert "Deny" in binding["spec"]["validationActions"]
        assert "matchResources" not in binding["spec"]


def test_policies_are_scoped_by_the_namespaces_label_but_for_the_one_that_guards_it(cluster_release: Rendered):
    for policy in cluster_release.of("ValidatingAdmissionPolicy"):
        selector = policy["spec"]["matchConstraints"].get("namespaceSelector")
        if policy["metadata"]["name"] == "veilpod-sandbox-namespace":
            assert selector is None
        else:
            assert selector == {"matchLabels": {"veilpod.dev/sandboxes": "true"}}


def test_an_operator_may_read_exactly_the_policies_that_there_are(cluster_release: Rendered):
    rules = cluster_release.one("ClusterRole", "veilpod-compute")["rules"]
    named = next(rule for rule in rules if rule["apiGroups"] == ["admissionregistration.k8s.io"])
    assert sorted(named["resourceNames"]) == sorted(
        policy["metadata"]["name"] for policy in cluster_release.of("ValidatingAdmissionPolicy")
    )
    assert set(named["verbs"]) == {"get", "list", "watch"}


def test_users_write_intent_and_never_what_an_operator_claims(cluster_release: Rendered):
    edit = cluster_release.one("ClusterRole", "veilpod-edit")
    assert edit["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-edit"] == "true"
    assert [rule["resources"] for rule in edit["rules"]] == [["computetasks", "onionrelays", "datasets"], ["onionrelays/scale"]]
    view = cluster_release.one("ClusterRole", "veilpod-view")
    assert {verb for rule in view["rules"] for verb in rule["verbs"]} == {"get", "list", "watch"}
