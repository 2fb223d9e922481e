"""Every rule of the sandbox's shape, P1 to P19, as a sentence."""

import base64
import dataclasses
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.specs import star_spec

from veilpod.agent.volumes import HIDDEN
from veilpod.core.ids import ServerIndex, TaskId
from veilpod.core.sandbox_class import SandboxClass, check_fits, parse_sandbox_class
from veilpod.errors import InvalidInput, Refused
from veilpod.kube.sandbox_pod import FINALIZER, Assignment, sandbox_pod

AGENT = "registry.example/veilpod-agent@sha256:" + "e" * 64
CLASS = SandboxClass(name="standard", canaries=("169.254.169.254:80",), scratch=64 << 20)
ASSIGNMENT = Assignment(name="ta-7777777777777777-1", task=TaskId(b"\x77" * 32), index=ServerIndex(1), incarnation=2)
SPEC = star_spec(env=(("EPOCHS", "$(HOSTNAME)"), ("VEILPOD_ROLE", "liar")))


def build(**changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "name": "ta-7777777777777777-1-2",
        "namespace": "north-sandboxes",
        "release": "north",
        "assignment": ASSIGNMENT,
        "spec": SPEC,
        "sandbox_class": CLASS,
        "agent_image": AGENT,
        "operator_cert": b"certificate",
        "relay_endpoints": ["198.18.0.9:9001"],
        "canaries": ["198.19.0.1:443"],
        "deadline_seconds": 600,
    }
    return sandbox_pod(**arguments | changes)


POD = build()
BODY = POD["spec"]
ON_NODE = build(canaries=["node:10250", "udp://198.19.0.10:53"])["spec"]
CONTAINERS = [*BODY["initContainers"], *BODY["containers"]]
AGENT_CONTAINER, PROGRAM, SEAL = CONTAINERS


def every_key(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {key for item in value.values() for key in every_key(item)}
    if isinstance(value, list):
        return {key for item in value for key in every_key(item)}
    return set()


def mounts(container: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {mount["name"]: mount for mount in container.get("volumeMounts", [])}


def test_kubernetes_sequences_the_containers() -> None:
    assert [container["name"] for container in BODY["initContainers"]] == ["agent", "program"]
    assert [container["name"] for container in BODY["containers"]] == ["seal"]
    assert [container.get("restartPolicy") for container in CONTAINERS] == ["Always", None, None]


def test_p1_no_token_reaches_the_pod() -> None:
    assert BODY["automountServiceAccountToken"] is False
    assert BODY["serviceAccountName"] == "sandbox"
    assert not every_key(POD) & {"serviceAccountToken", "projected", "secret", "configMap"}


def test_p2_the_pod_does_not_learn_of_services() -> None:
    assert BODY["enableServiceLinks"] is False


def test_p3_nothing_is_shared_with_the_host_or_between_containers() -> None:
    assert not any(BODY[key] for key in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"))
    assert not every_key(POD) & {"hostPort", "hostPath", "hostAliases"}


def test_p4_nobody_is_root_and_nobody_becomes_more() -> None:
    assert BODY["securityContext"]["runAsNonRoot"] is True
    assert BODY["securityContext"]["runAsUser"] == BODY["securityContext"]["runAsGroup"] == 65532
    for container in CONTAINERS:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["privileged"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
    assert not every_key(POD) & {"sysctls", "procMount", "add"}


def test_p5_the_runtimes_seccomp_profile_holds_for_all() -> None:
    assert BODY["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


def test_p6_every_root_file_system_is_read_only() -> None:
    assert all(container["securityContext"]["readOnlyRootFilesystem"] for container in CONTAINERS)


def test_p7_volumes_are_memory_with_a_limit_that_the_writers_memory_covers() -> None:
    limits = {container["name"]: int(container["resources"]["limits"]["memory"]) for container in CONTAINERS}
    sizes = {volume["name"]: int(volume["emptyDir"]["sizeLimit"]) for volume in BODY["volumes"] if "emptyDir" in volume}
    assert all(volume["emptyDir"]["medium"] == "Memory" for volume in BODY["volumes"] if "emptyDir" in volume)
    assert [volume["name"] for volume in BODY["volumes"] if "emptyDir" not in volume] == ["pod"]
    assert sizes["in"] + sizes["bin"] < limits["agent"]
    assert sizes["out"] <= limits["program"]
    assert sizes["scratch"] <= limits["program"]


def test_p8_every_container_requests_its_limits() -> None:
    for container in CONTAINERS:
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert set(container["resources"]["limits"]) == {"cpu", "memory"}


def test_p9_user_namespaces_are_asked_for_only_where_class_and_node_have_them() -> None:
    willing = dataclasses.replace(CLASS, user_namespaces=True)
    assert "hostUsers" not in BODY
    assert "hostUsers" not in build(sandbox_class=willing)["spec"]
    assert "hostUsers" not in build(user_namespaces_supported=True)["spec"]
    assert build(sandbox_class=willing, user_namespaces_supported=True)["spec"]["hostUsers"] is False


def test_p10_the_runtime_is_the_classs() -> None:
    assert "runtimeClassName" not in BODY
    gvisor = build(sandbox_class=dataclasses.replace(CLASS, runtime_class="gvisor", tier="T1"))["spec"]
    assert gvisor["runtimeClassName"] == "gvisor"


@pytest.mark.parametrize("image", ["registry.example/agent:latest", "registry.example/agent@sha256:12", "agent"])
def test_p11_an_image_without_a_digest_is_refused(image: str) -> None:
    assert all(re.search(r"@sha256:[0-9a-f]{64}$", container["image"]) for container in CONTAINERS)
    with pytest.raises(InvalidInput):
        build(agent_image=image)


def test_p12_the_environment_holds_plain_public_values_and_the_uid_is_a_file() -> None:
    assert not every_key(POD) & {"valueFrom", "envFrom"}
    assert "envFrom" not in every_key(ON_NODE)
    items = [item for volume in BODY["volumes"] for item in volume.get("downwardAPI", {}).get("items", [])]
    assert [item["fieldRef"]["fieldPath"] for item in items] == ["metadata.uid"]


def test_p12_who_must_find_the_node_out_of_reach_is_told_where_it_is_and_nobody_else() -> None:
    told = {item["name"] for item in [*ON_NODE["initContainers"], *ON_NODE["containers"]] if "valueFrom" in every_key(item)}
    assert told == {"agent"}
    paths = {item["valueFrom"]["fieldRef"]["fieldPath"] for item in ON_NODE["initContainers"][0]["env"]}
    assert paths == {"status.hostIPs"}


def test_p13_no_log_becomes_a_termination_message() -> None:
    assert {container["terminationMessagePolicy"] for container in CONTAINERS} == {"File"}
    assert PROGRAM["terminationMessagePath"].startswith(f"/veilpod/bin/{HIDDEN}/")  # not the program's to write
    assert mounts(PROGRAM)["bin"]["readOnly"]


def test_p14_the_pod_is_never_revived_and_ends_by_itself() -> None:
    assert BODY["restartPolicy"] == "Never"
    assert 600 < BODY["activeDeadlineSeconds"] < 1200
    assert build(deadline_seconds=-5)["spec"]["activeDeadlineSeconds"] > 0


def test_p15_it_ends_within_ten_seconds() -> None:
    assert BODY["terminationGracePeriodSeconds"] <= 10


def test_p16_there_is_no_dns() -> None:
    assert BODY["dnsPolicy"] == "None"
    assert BODY["dnsConfig"]["nameservers"] == ["127.0.0.1"]


def test_p17_nothing_is_executed_from_outside_and_the_probe_cannot_restart_the_agent() -> None:
    assert not every_key(POD) & {"exec", "lifecycle", "livenessProbe", "readinessProbe", "stdin", "tty"}
    probe = AGENT_CONTAINER["startupProbe"]
    assert probe["tcpSocket"] == {"port": 7444}
    assert probe["periodSeconds"] * probe["failureThreshold"] >= BODY["activeDeadlineSeconds"]


def test_p18_it_keeps_away_from_relays_where_there_are_nodes_enough() -> None:
    [preference] = BODY["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert preference["podAffinityTerm"]["labelSelector"] == {"matchLabels": {"veilpod.dev/component": "relay"}}


def test_p19_labels_come_from_the_operator_alone() -> None:
    labels = POD["metadata"]["labels"]
    assert labels["veilpod.dev/component"] == "sandbox"
    assert labels["veilpod.dev/assignment"] == ASSIGNMENT.name
    assert labels["veilpod.dev/incarnation"] == "2"
    assert "annotations" not in POD["metadata"]


def test_the_finalizer_holds_the_object_until_the_node_has_spoken() -> None:
    assert POD["metadata"]["finalizers"] == [FINALIZER] == ["veilpod.dev/evidence"]


def test_the_program_sees_its_volumes_and_nothing_of_the_agents() -> None:
    assert set(mounts(PROGRAM)) == {"in", "out", "scratch", "bin"}
    assert {name for name, mount in mounts(PROGRAM).items() if not mount["readOnly"]} == {"out", "scratch"}
    assert mounts(PROGRAM)["scratch"]["mountPath"] == "/tmp"
    assert "volumeMounts" not in SEAL


def test_the_program_is_started_by_the_launcher_with_the_roles_arguments() -> None:
    assert PROGRAM["image"] == SPEC.program.image
    assert PROGRAM["command"] == ["/veilpod/bin/launch", "--socket", "@veilpod-program", "--", "python3", "-m", "fed", "train"]
    assert "args" not in PROGRAM


def test_the_environment_is_the_users_except_what_is_ours() -> None:
    env = {item["name"]: item["value"] for item in PROGRAM["env"]}
    assert env == {
        "EPOCHS": "$$(HOSTNAME)",  # Kubernetes would have expanded it
        "VEILPOD_TASK": "0x" + "77" * 32,
        "VEILPOD_ROLE": "site",
        "VEILPOD_INDEX": "0",
        "VEILPOD_PEERS": "hub-0",
    }


def test_the_agent_is_told_what_it_must_reach_and_what_not() -> None:
    guard = ["--allow", "198.18.0.9:9001", "--canary", "198.19.0.1:443", "169.254.169.254:80"]
    assert AGENT_CONTAINER["args"][-len(guard) :] == guard
    assert base64.b64encode(b"certificate").decode() in AGENT_CONTAINER["args"]
    assert ON_NODE["initContainers"][0]["args"][-4:] == ["--canary", "node:10250", "udp://198.19.0.10:53", "169.254.169.254:80"]
    for nothing in ({"relay_endpoints": []}, {"canaries": [], "sandbox_class": dataclasses.replace(CLASS, canaries=())}):
        with pytest.raises(InvalidInput):
            build(**nothing)


def test_our_containers_parse_the_arguments_that_the_manifest_gives_them() -> None:
    from veilpod.agent.__main__ import _parser, _settings

    settings = _settings(_parser().parse_args(AGENT_CONTAINER["args"]))
    assert [canary.spell() for canary in settings.canaries] == ["198.19.0.1:443", "169.254.169.254:80"]
    assert settings.operator_cert == b"certificate"
    assert settings.control == ("0.0.0.0", 7443)
    assert settings.ready == ("0.0.0.0", 7444)
    agent_paths = {mount["mountPath"] for mount in mounts(AGENT_CONTAINER).values()}
    used = (settings.inputs, settings.outputs, settings.scratch, settings.binaries)
    assert {str(path) for path in used} | {str(path.parent) for path in (settings.marker, settings.pod_uid)} == agent_paths
    assert settings.program_socket in PROGRAM["command"]
    assert _parser().parse_args(SEAL["args"]).socket == settings.seal_socket


def test_the_server_that_seals_the_result_has_the_memory_for_it() -> None:
    hub = build(assignment=dataclasses.replace(ASSIGNMENT, index=ServerIndex(0)))["spec"]["initContainers"][0]
    assert int(hub["resources"]["limits"]["memory"]) > int(AGENT_CONTAINER["resources"]["limits"]["memory"])


@given(st.integers(1, 1 << 34), st.integers(1, 64000), st.integers(1, 1 << 33))
def test_sizes_of_any_task_are_positive_and_whole(memory: int, cpu: int, result: int) -> None:
    spec = dataclasses.replace(
        SPEC,
        program=dataclasses.replace(SPEC.program, memory=memory, cpu=f"{cpu}m"),
        result=dataclasses.replace(SPEC.result, max_size=result),
    )
    body = build(spec=spec)["spec"]
    assert all(int(volume["emptyDir"]["sizeLimit"]) > 0 for volume in body["volumes"] if "emptyDir" in volume)
    for container in [*body["initContainers"], *body["containers"]]:
        assert int(container["resources"]["limits"]["memory"]) > 0
        assert re.fullmatch(r"[1-9][0-9]*m", container["resources"]["limits"]["cpu"])
    json.dumps(body)


def test_the_class_is_read_as_the_api_server_gives_it_and_bounds_the_task() -> None:
    manifest = {
        "metadata": {"name": "sealed"},
        "spec": {
            "tier": "T1",
            "runtimeClassName": "gvisor",
            "limits": {"cpu": "1500m", "memory": "2Gi", "scratch": "128Mi"},
            "canaries": ["169.254.169.254:80"],
            "denyHostAccess": True,
            "userNamespaces": "WhenSupported",
            "terminationGracePeriodSeconds": 5,
            "agent": {"cpu": "1"},
        },
    }
    made = parse_sandbox_class(manifest)
    assert (made.tier, made.cpu, made.memory, made.scratch, made.grace_seconds) == ("T1", 1500, 2 << 30, 128 << 20, 5)
    [agent] = [each for each in build(sandbox_class=made)["spec"]["initContainers"] if each["name"] == "agent"]
    assert agent["resources"]["limits"]["cpu"] == "1000m"
    check_fits(SPEC, made)
    with pytest.raises(Refused):
        check_fits(SPEC, dataclasses.replace(made, memory=1 << 20))
    with pytest.raises(InvalidInput):
        parse_sandbox_class({"metadata": {"name": "x"}, "spec": {}})
    with pytest.raises(InvalidInput) as impossible:
        parse_sandbox_class({"metadata": {"name": "x"}, "spec": {"tier": "T0", "canaries": ["127.0.0.1:80"]}})
    assert impossible.value.reason == "ImpossibleCanary"
