"""The doctor on a real cluster: it passes one that enforces NetworkPolicy, refuses one that does not, and leaves nothing behind."""

import json
import pathlib
import subprocess
import sys
from typing import Any

import pytest

from localcluster import inspect
from tests.e2e.conftest import Cluster

pytestmark = pytest.mark.e2e


def examine(cluster: Cluster, *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Run `veilpod doctor`; the findings by check."""
    veilpod = pathlib.Path(sys.executable).with_name("veilpod")
    command = [str(veilpod), "doctor", "--output", "json", *arguments]
    result = subprocess.run(command, env=cluster.environment, capture_output=True, text=True, timeout=400, check=False)
    assert result.stdout, result.stderr
    return result.returncode, {item["check"]: item for item in json.loads(result.stdout)["findings"]}


def leftovers(cluster: Cluster) -> list[str]:
    names = cluster.kubectl("get", "namespaces", "-o", "jsonpath={.items[?(@.status.phase=='Active')].metadata.name}").split()
    return [name for name in names if name.startswith("veilpod-doctor")]


def test_a_cluster_that_keeps_the_promises_passes(cluster: Cluster, base_image: str) -> None:
    code, found = examine(cluster, "--image", base_image, "--runtime-class", "gvisor")
    assert {check: item["verdict"] for check, item in found.items() if item["verdict"] == "fail"} == {}
    assert code == 0
    assert found["NetworkPolicy, IPv4"]["verdict"] == "pass"
    assert found["RuntimeClass gvisor"]["verdict"] == "pass"
    assert found["kernels"]["verdict"] == "pass"
    assert leftovers(cluster) == []


def test_a_cluster_that_enforces_no_policy_is_refused(cluster: Cluster, base_image: str) -> None:
    inspect.switch_netpol(cluster.name, on=False)
    try:
        code, found = examine(cluster, "--image", base_image, "--runtime-class", "kata")
    finally:
        inspect.switch_netpol(cluster.name, on=True)
    assert code == 1
    assert found["NetworkPolicy, IPv4"]["verdict"] == "fail"
    assert "not enforced" in found["NetworkPolicy, IPv4"]["found"]
    assert found["RuntimeClass kata"]["verdict"] == "fail"
    assert leftovers(cluster) == []


def test_what_was_not_tried_is_not_passed(cluster: Cluster) -> None:
    code, found = examine(cluster)
    assert code == 0
    assert found["NetworkPolicy"]["verdict"] == "skip"
    assert "--image" in found["NetworkPolicy"]["remedy"]
