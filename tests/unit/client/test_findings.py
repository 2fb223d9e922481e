"""What the doctor makes of what it read: a refusal is a refusal, and what was not checked never counts as passed."""

from typing import Any

import pytest

from veilpod.client import findings

GOOD = dict.fromkeys(("before", "denied", "canary", "dns", "node", "allowed"), True)


def node(
    *, system: str = "linux", ready: str = "True", kubelet: str = "v1.31.0", runtime: str = "containerd://2.0.0", kernel: str = "6.12.1"
) -> dict[str, Any]:
    info = {"operatingSystem": system, "kubeletVersion": kubelet, "containerRuntimeVersion": runtime, "kernelVersion": kernel}
    return {"status": {"nodeInfo": info, "conditions": [{"type": "Ready", "status": ready}]}}


@pytest.mark.parametrize(
    ("text", "verdict"), [("v1.30.0", "pass"), ("v1.29.9", "fail"), ("v1.37.2+k3s1", "pass"), ("v2.0", "pass"), ("unknown", "fail")]
)
def test_old_servers_are_refused(text: str, verdict: str) -> None:
    assert findings.version({"gitVersion": text}).verdict == verdict


def test_admission_policies_must_be_served() -> None:
    served = {"resources": [{"name": "validatingadmissionpolicies"}, {"name": "validatingadmissionpolicybindings"}]}
    assert findings.admission(served).verdict == "pass"
    assert findings.admission({"resources": [{"name": "validatingadmissionpolicies"}]}).verdict == "fail"
    assert findings.admission(None).verdict == "fail"


def test_kinds_may_be_missing_before_the_installation_but_not_in_part() -> None:
    every = {"resources": [{"name": name} for name in findings.KINDS]}
    assert findings.kinds(None).verdict == "warn"
    assert findings.kinds(every).verdict == "pass"
    assert findings.kinds({"resources": every["resources"][:-1]}).verdict == "fail"


def test_nodes_must_be_linux_ready_and_new() -> None:
    assert [item.verdict for item in findings.nodes([node(), node(system="windows", kernel="10.0.1")])] == ["pass"] * 4
    assert findings.nodes([node(ready="False")])[0].verdict == "fail"
    assert findings.nodes([node(kubelet="v1.28.1")])[1].verdict == "fail"
    assert findings.nodes([node(runtime="docker://24")])[2].verdict == "warn"


@pytest.mark.parametrize(
    ("kernel", "verdict"), [("6.7.0", "pass"), ("6.18.4-amd64", "pass"), ("6.6.99+", "warn"), ("5.15.0-91-generic", "warn")]
)
def test_a_kernel_that_cannot_confine_programs_with_ports_is_named(kernel: str, verdict: str) -> None:
    found = findings.nodes([node(), node(kernel=kernel)])[3]
    assert found.verdict == verdict
    assert (kernel in found.found) is (verdict == "warn")


def test_every_named_runtime_class_must_be_there() -> None:
    present = [{"metadata": {"name": "gvisor"}}]
    assert [item.verdict for item in findings.runtime_classes(present, ["gvisor", "kata", "gvisor"])] == ["pass", "fail"]


def test_a_dropped_restart_policy_is_found() -> None:
    assert findings.sidecars({"spec": {"initContainers": [{"restartPolicy": "Always"}]}}).verdict == "pass"
    assert findings.sidecars({"spec": {"initContainers": [{}]}}).verdict == "fail"
    assert findings.sidecars(None).verdict == "fail"


def test_pod_security_must_refuse_and_for_its_own_reason() -> None:
    assert findings.pod_security('pods "x" is forbidden: violates PodSecurity "restricted:latest"').verdict == "pass"
    assert findings.pod_security(None).verdict == "fail"
    assert findings.pod_security("quota exceeded").verdict == "fail"


@pytest.mark.parametrize("missing", [None, "before", "denied", "canary", "dns", "node", "allowed"])
def test_each_observation_of_the_network_is_needed(missing: str | None) -> None:
    seen = {name: name != missing for name in GOOD}
    assert findings.network("IPv4", seen).verdict == {None: "pass", "node": "warn"}.get(missing, "fail")


def test_every_refusal_has_a_remedy() -> None:
    refused = [
        *findings.nodes([node(kernel="6.1.0")]),
        findings.version({}),
        findings.admission(None),
        *findings.nodes([]),
        *findings.runtime_classes([], ["kata"]),
        findings.storage([]),
        findings.sidecars(None),
        findings.pod_security(None),
        findings.rights(["create namespaces"]),
        *[findings.network("IPv6", {**GOOD, name: False}) for name in GOOD],
    ]
    assert all(item.remedy for item in refused if item.verdict != "pass")
    assert all(item.remedy == "" for item in refused if item.verdict == "pass")
