"""What values may be: documented, typed, and refused with a sentence."""

import json

import pytest
import yaml

from tests.chart.conftest import CHART, HOT_KEY, ROLES, Helm, party, tower

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def keys(schema, prefix=""):
    """Every path that a schema names, to the depth at which it leaves the user free."""
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    for name, child in schema.get("properties", {}).items():
        path = f"{prefix}{name}"
        inner = list(keys(child, path + "."))
        yield from inner or [path]


def leaves(values, prefix=""):
    free = {
        "cluster.sandboxClasses",
        "compute.relayNamespaceLabels",
        "relay.spec",
        "operator.resources",
        "store.resources",
        "watchtower.resources",
    }
    for name, value in values.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict) and value and path not in free:
            yield from leaves(value, path + ".")
        else:
            yield path


def test_the_schema_and_the_documented_values_name_the_same_keys():
    assert sorted(set(keys(SCHEMA)) - {"global"}) == sorted(leaves(VALUES))


def test_no_object_of_the_schema_lets_an_unknown_key_through():
    def closed(schema, path):
        if schema.get("type") == "object" and "properties" in schema:
            assert schema.get("additionalProperties") is False, path
        for name, child in schema.get("properties", {}).items():
            closed(child, f"{path}.{name}")

    for name, schema in [("", SCHEMA), *SCHEMA["$defs"].items()]:
        closed(schema, name)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "nothing to install"),
        ({"cluster": {"install": True}, "roles": {"compute": True}}, "a release of its own"),
        (party("compute", chain={}), "set chain.rpcUrl"),
        (party("compute", chain={**party()["chain"], "keySecret": {"name": ""}}), "kubectl create secret generic"),
        (party("compute", chain={**party()["chain"], "contracts": {"registry": "0x" + "1" * 40}}), "set chain.contracts."),
        (party("requester", images={"store": party()["images"]["store"]}), "set images.operator.digest"),
        (party("compute", images={"operator": party()["images"]["operator"]}), "set images.agent.digest"),
        (party("compute", images={"operator": {"digest": "latest"}}), "images"),
        (party("compute", compute={"sandboxNamespace": "hospital"}), "must not be the release's own namespace"),
        (party("compute", compute={"capacity": 0}), "capacity"),
        (party("compute", compute={"stake": 0.1}), "stake"),
        (party("compute", compute={"relayCIDRs": ["relay.example"]}), "relayCIDRs"),
        (party("compute", chain={**party()["chain"], "chainID": 1}), "chainID"),
        (party("compute", persistance={}), "persistance"),
        (party("watcher"), "watcher"),
        (party("watchtower"), "set watchtower.keySecret.name"),
        (tower(images={"operator": party()["images"]["operator"]}), "set images.watchtower.digest"),
        (tower("compute", watchtower={"keySecret": {"name": "chain-key"}}), "must not be the party's chain key"),
        (tower(watchtower={**HOT_KEY, "cap": 0.1}), "cap"),
        (tower(watchtower={**HOT_KEY, "parties": ["north"]}), "parties"),
        (tower(cluster={"install": True}), "a release of its own"),
        (party("compute", compute={"watchtowers": [{"url": "tower:9201", "address": "0x" + "1" * 40}]}), "url"),
        (party("compute", compute={"watchtowers": [{"url": "http://tower:9201"}]}), "address"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_that_cannot_work_are_refused_by_name(helm: Helm, values, sentence):
    assert sentence in helm.refusal(values)


@pytest.mark.parametrize("role", ROLES)
def test_each_role_installs_with_the_required_values_alone(helm: Helm, role):
    assert helm.render(party(role)).manifests
