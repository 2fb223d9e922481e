"""The compiled contracts that the package carries: they load, and they are what the interfaces promise."""

import importlib.resources
import json
import pathlib
import re

import pytest

INTERFACES = pathlib.Path(__file__).parents[2] / "contracts" / "src" / "interfaces"
CONTRACTS = ("NodeRegistry", "TaskScheduler", "ChannelManager")
MAX_CREATION_CODE = 2 * 24_576  # EIP-3860


def text(name):
    return (importlib.resources.files("veilpod.chain") / "artifacts" / f"{name}.json").read_text("utf-8")


def declared(name, kind):
    """Name -> number of parameters of every function or event in an interface."""
    source = re.sub(r"//.*|/\*.*?\*/", "", (INTERFACES / f"I{name}.sol").read_text("utf-8"))
    found = re.findall(rf"\b{kind}\s+(\w+)\s*\(([^)]*)\)", source)
    assert found
    return {member: len([part for part in parameters.split(",") if part.strip()]) for member, parameters in found}


def compiled(name, kind):
    return {item["name"]: len(item["inputs"]) for item in json.loads(text(name))["abi"] if item["type"] == kind}


@pytest.mark.parametrize("name", CONTRACTS)
@pytest.mark.parametrize("kind", ["function", "event"])
def test_an_artifact_carries_everything_its_interface_declares(name, kind):
    promised = declared(name, kind)
    assert promised == {member: compiled(name, kind).get(member) for member in promised}


@pytest.mark.parametrize("name", CONTRACTS)
def test_an_artifact_is_named_complete_and_deployable(name):
    artifact = json.loads(text(name))
    assert artifact["contract"] == name
    code = bytes.fromhex(artifact["bytecode"].removeprefix("0x"))  # unlinked libraries would leave placeholders that are no hex
    assert 0 < len(code) <= MAX_CREATION_CODE
    assert artifact["viaIR"] is True
    assert re.fullmatch(r"\d+\.\d+\.\d+\+commit\.[0-9a-f]{8}", artifact["compiler"])


@pytest.mark.parametrize("name", CONTRACTS)
def test_an_artifact_is_compact(name):
    assert text(name) == json.dumps(json.loads(text(name)), separators=(",", ":")) + "\n"


@pytest.mark.parametrize(
    ("name", "inputs"), [("NodeRegistry", ["address"]), ("TaskScheduler", ["address"]), ("ChannelManager", [])], ids=CONTRACTS
)
def test_a_constructor_takes_what_a_deployment_gives(name, inputs):
    constructors = [item for item in json.loads(text(name))["abi"] if item["type"] == "constructor"]
    assert [parameter["type"] for constructor in constructors for parameter in constructor["inputs"]] == inputs


@pytest.mark.parametrize("name", CONTRACTS)
def test_no_function_can_change_the_rules(name):
    forbidden = re.compile("upgrade|proxy|pause|owner$|admin|initialize", re.IGNORECASE)
    assert [member for member in compiled(name, "function") if forbidden.search(member)] == []
