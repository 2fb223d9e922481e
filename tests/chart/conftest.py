"""Renders the chart with the real helm, for tests that look at what would be applied. No cluster."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from localcluster import build

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "veilpod"

Manifest = dict[str, Any]


def digest(character: str) -> str:
    return "sha256:" + character * 64


PARTY: dict[str, Any] = {
    "chain": {
        "rpcUrl": "http://node.example:8545",
        "chainId": 31337,
        "contracts": {name: "0x" + digit * 40 for name, digit in (("registry", "1"), ("scheduler", "2"), ("channels", "3"))},
        "keySecret": {"name": "chain-key"},
    },
    "images": {
        name: {"digest": digest(letter)}
        for name, letter in (("operator", "a"), ("agent", "b"), ("relay", "c"), ("store", "d"), ("watchtower", "e"))
    },
}
ROLES = ("requester", "compute", "storage", "relay")
HOT_KEY = {"keySecret": {"name": "hot-key"}}


@dataclasses.dataclass(frozen=True, slots=True)
class Rendered:
    """The manifests of one release."""

    manifests: list[Manifest]

    def of(self, kind: str) -> list[Manifest]:
        return [manifest for manifest in self.manifests if manifest["kind"] == kind]

    def one(self, kind: str, name: str, namespace: str | None = None) -> Manifest:
        """Without a namespace: in the release's own, which manifests leave out."""
        found = [item for item in self.of(kind) if (item["metadata"]["name"], item["metadata"].get("namespace")) == (name, namespace)]
        assert len(found) == 1, f"{len(found)} of {kind} {name}"
        return found[0]

    @property
    def pod_specs(self) -> list[Manifest]:
        return [manifest["spec"]["template"]["spec"] for manifest in self.manifests if manifest["kind"] in ("Deployment", "StatefulSet")]


class Helm:
    """The helm program and this chart."""

    def __init__(self, program: str) -> None:
        self.program = program

    def run(self, *arguments: str, values: dict[str, Any] | None = None) -> "subprocess.CompletedProcess[str]":
        files = ["--values", "-"] if values is not None else []
        text = json.dumps(values) if values is not None else None
        environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
        command = [self.program, *arguments, *files]
        return subprocess.run(command, input=text, env=environment, capture_output=True, text=True, timeout=60, check=False)

    def template(
        self, values: dict[str, Any], *, release: str = "north", namespace: str = "hospital"
    ) -> "subprocess.CompletedProcess[str]":
        return self.run("template", release, str(CHART), "--namespace", namespace, "--kube-version", "1.37.2", values=values)

    def render(self, values: dict[str, Any], **options: str) -> Rendered:
        result = self.template(values, **options)
        assert result.returncode == 0, result.stderr
        return Rendered([document for document in yaml.safe_load_all(result.stdout) if document])

    def refusal(self, values: dict[str, Any]) -> str:
        result = self.template(values)
        assert result.returncode != 0, "helm accepted these values"
        return result.stderr


@pytest.fixture(scope="session")
def helm() -> Helm:
    program = shutil.which("helm")
    version = subprocess.run([program, "version", "--short"], capture_output=True, text=True, check=True).stdout if program else ""
    return Helm(program) if program and version.startswith("v4") else Helm(str(build.ensure(build.HELM) / "helm"))


@pytest.fixture(scope="session")
def cluster_release(helm: Helm) -> Rendered:
    return helm.render({"cluster": {"install": True}}, release="veilpod", namespace="veilpod-system")


@pytest.fixture(scope="session", params=[*ROLES, "all"])
def party_release(request: pytest.FixtureRequest, helm: Helm) -> Rendered:
    return helm.render(party(*(ROLES if request.param == "all" else [request.param])))


def party(*roles: str, **more: Any) -> dict[str, Any]:
    """Values of a party that plays these roles."""
    return {**PARTY, "roles": dict.fromkeys(roles, True), **more}


def tower(*roles: str, **more: Any) -> dict[str, Any]:
    """Values of a watchtower, alone or beside other roles."""
    return party("watchtower", *roles, **{"watchtower": HOT_KEY, **more})
