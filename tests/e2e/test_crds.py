"""The API server as the first reader of a manifest: what it completes, and what it refuses in which words."""

import json
import subprocess

import pytest

from localcluster import layout
from tests.e2e.conftest import Cluster
from tests.e2e.kinds_world import ACCOUNTS, ASSIGNMENT, CHANNEL, DATASET, SPEC, TASK_ID, changed, dry_run, maker, manifest

pytestmark = pytest.mark.e2e


@pytest.fixture
def make(cluster_release: Cluster, request: pytest.FixtureRequest):
    return maker(cluster_release, request)


# -- what is completed


def test_a_task_of_four_lines_is_completed_with_finite_defaults(cluster_release: Cluster):
    spec = {key: SPEC[key] for key in ("program", "payment")} | {"roles": [{"name": "solo"}], "result": SPEC["result"] | {"from": "solo"}}
    stored, refusal = dry_run(cluster_release, manifest("ComputeTask", "small", spec))
    assert stored is not None, refusal
    completed = stored["spec"]
    assert completed["deadlines"] == {"schedule": "2m", "inputs": "5m", "compute": "30m", "total": "1h"}
    assert completed["onion"] == {"hops": 3, "relays": "Any", "constantRate": 0}
    assert completed["topology"] == {"type": "None"}
    assert completed["program"]["resources"] == {"cpu": "1", "memory": "1Gi"}
    assert completed["roles"] == [{"name": "solo", "replicas": 1}]
    assert completed["result"]["maxSize"] == "64Mi"
    assert completed["sandboxClassName"] == "standard"
    assert completed["payment"]["perTransferMiB"] == "0"


def test_data_stay_with_their_owners_custody_unless_somebody_writes_otherwise(cluster_release: Cluster):
    stored, _ = dry_run(cluster_release, manifest("Dataset", "north", DATASET))
    assert stored is not None
    assert stored["spec"]["custody"] == "Owner"
    assert stored["spec"]["policy"] == {"programs": [], "requesters": [], "minTier": "T0", "programConfinement": "Required"}


def test_a_relay_of_no_words_has_a_port_a_bandwidth_and_registered_exits(cluster_release: Cluster):
    stored, _ = dry_run(cluster_release, manifest("OnionRelay", "north", {}))
    assert stored is not None
    assert stored["spec"] == {
        "port": 9001,
        "exit": {"allow": "Registered"},
        "bandwidth": "10Mi",
        "replicas": 1,
        "draining": False,
        "drainSeconds": 60,
    }


def test_a_relays_identity_is_in_memory_unless_its_owner_names_a_secret_and_the_name_may_change(make):
    made = make("OnionRelay", {})
    assert "identitySecretName" not in made.cluster.get(*made.target)["spec"]
    for name in ("relay-identity", "kept.2", None):
        made.cluster.kubectl("patch", *made.target, "--type=merge", "--patch", json.dumps({"spec": {"identitySecretName": name}}))
        assert made.cluster.get(*made.target)["spec"].get("identitySecretName") == name


def test_a_relay_with_a_name_too_long_for_its_replicas_objects_has_one_only(cluster_release: Cluster):
    name = "r" * 56
    stored, refusal = dry_run(cluster_release, manifest("OnionRelay", name, {}))
    assert stored is not None, refusal
    stored, refusal = dry_run(cluster_release, manifest("OnionRelay", name, {"replicas": 2}))
    assert stored is None
    assert "at most 55 characters" in refusal


def test_a_relay_is_scaled_within_its_bounds(make):
    made = make("OnionRelay", {})
    made.cluster.kubectl("scale", "/".join(made.target), "--replicas=16")
    assert made.cluster.get(*made.target)["spec"]["replicas"] == 16
    refused = made.cluster.run("scale", "/".join(made.target), "--replicas=0")
    assert "greater than or equal to 1" in refused.stderr


def test_a_class_denies_host_access_and_tries_the_metadata_service(cluster_release: Cluster):
    stored, _ = dry_run(cluster_release, manifest("SandboxClass", "own", {"tier": "T0"}))
    assert stored is not None
    assert stored["spec"]["denyHostAccess"] is True
    assert stored["spec"]["canaries"] == ["169.254.169.254:80", "[fd00:ec2::254]:80", "node:10250"]
    assert stored["spec"]["terminationGracePeriodSeconds"] == 10
    assert stored["spec"]["agent"] == {"cpu": "200m"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("payment.budget", "0.0300"),
        ("payment.budget", "999999"),
        ("payment.perServer", "0"),
        ("deadlines.total", "38m"),
        ("program.resources.cpu", 2),
        ("program.resources.cpu", "250m"),
        ("topology", {"type": "Mesh", "ports": [9092, 9093]}),
        ("inputs.0.path", "2024/north.csv"),
        ("inputs", None),
        ("quorum", None),
    ],
)
def test_what_fits_together_is_accepted(cluster_release: Cluster, path, value):
    stored, refusal = dry_run(cluster_release, manifest("ComputeTask", "fits", changed(SPEC, path, value)))
    assert stored is not None, refusal


# -- what is refused, and the words


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("program.image", "registry.example/fedavg:latest", "name the image by digest"),
        ("program.command", None, "spec.program.command: Required value"),
        ("program.env", {"VEILPOD_TASK": "x"}, "are the agent's"),
        ("program.resources.cpu", "two", 'write processors as "1", "500m"'),
        ("program.resources.cpu", "0.5", 'write processors as "1", "500m"'),
        ("program.resources.memory", "1.5Gi", "in whole units"),
        ("programm", {}, 'unknown field "spec.programm"'),
        ("roles.1.replicas", 16, "at most 16 servers"),
        ("roles.1.name", "hub", "Duplicate value"),
        ("roles.1.name", "Site", "name a role with small letters"),
        ("topology.type", "Ring", 'supported values: "None", "Star", "Mesh"'),
        ("topology.hub", "site", "name a role with replicas 1 in topology.hub"),
        ("topology.hub", None, "name a role with replicas 1 in topology.hub"),
        ("topology.ports", [], "list them in topology.ports for Star and Mesh"),
        ("topology", {"type": "Mesh", "hub": "hub", "ports": [9092]}, "only a Star has a hub"),
        ("topology.ports", [7443], "ports 7443 and 7444 are the agent's own"),
        ("inputs.0.to.role", "sight", "write in to.role a name from spec.roles"),
        ("inputs.0.to.index", 2, "a number below its replicas"),
        ("inputs.1.to.index", 0, "give each input of a server a path of its own"),
        ("inputs.0.path", "../train.csv", "write a path relative to /veilpod/in"),
        ("inputs.0.path", "/train.csv", "write a path relative to /veilpod/in"),
        ("inputs.0.path", "a//b", "write a path relative to /veilpod/in"),
        ("result.from", "hubb", "write in result.from the name of a role"),
        ("result.recipient", "veil1abc", '"veil1" and 1622 more characters'),
        ("result.maxSize", "64 MB", 'such as "64Mi"'),
        ("payment.budget", "0.029999999999999999", "raise payment.budget"),
        ("payment.perServer", "0.010000000000000001", "raise payment.budget"),
        ("payment.budget", "1e3", "write money as a decimal string"),
        ("payment.budget", "0.0000000000000000001", "write money as a decimal string"),
        ("deadlines.total", "37m59s", "at least a minute above schedule + inputs + compute"),
        ("deadlines.total", "1d", 'such as "90s", "5m" or "1h30m"'),
        ("deadlines.inputs", "0s", "more than 0s"),
        ("deadlines.inputs", "59s", "to at least 60s each"),
        ("quorum.min", 3, "not above its replicas"),
        ("onion.hops", 2, "greater than or equal to 3"),
        ("onion.constantRate", "1Ki", "between 256Ki and 1Gi"),
        ("onion.relays", "Mine", 'supported values: "Any", "InCluster"'),
        ("sandboxClassName", "Standard", "write the name of a SandboxClass"),
    ],
)
def test_a_task_that_cannot_work_is_refused_with_what_to_write_instead(cluster_release: Cluster, path, value, words):
    stored, refusal = dry_run(cluster_release, manifest("ComputeTask", "refused", changed(SPEC, path, value)))
    assert stored is None
    assert words in refusal


def test_a_directory_cannot_be_an_input_of_the_same_server_as_a_file_in_it(cluster_release: Cluster):
    spec = changed(changed(SPEC, "inputs.1.to.index", 0), "inputs.1.path", "train.csv/part")
    _, refusal = dry_run(cluster_release, manifest("ComputeTask", "refused", spec))
    assert "give each input of a server a path of its own" in refusal


@pytest.mark.parametrize(
    ("kind", "spec", "words"),
    [
        ("Dataset", changed(DATASET, "digest", "c" * 64), 'write "sha256:"'),
        ("Dataset", changed(DATASET, "owner", "north"), "write the owner's account"),
        ("Dataset", changed(DATASET, "policy.programs", ["fedavg:latest"]), "name the image by digest"),
        ("Dataset", changed(DATASET, "dataset", "a b"), "name a data set with letters"),
        ("SandboxClass", {"tier": "T1"}, "name its RuntimeClass in runtimeClassName"),
        ("SandboxClass", {"tier": "T0", "canaries": ["metadata.example:80"]}, "write an address with a port"),
        ("SandboxClass", {"tier": "T0", "canaries": ["10.0.0.1:70000"]}, "write an address with a port"),
        ("SandboxClass", {"tier": "T0", "canaries": ["icmp://10.0.0.1:1"]}, "write an address with a port"),
        ("SandboxClass", {"tier": "T0", "canaries": ["udp://127.0.0.1:53"]}, "proves nothing"),
        ("SandboxClass", {"tier": "T0", "canaries": ["[ff02::1]:53"]}, "proves nothing"),
        ("SandboxClass", {"tier": "T0", "terminationGracePeriodSeconds": 30}, "less than or equal to 10"),
        ("SandboxClass", {"tier": "T0", "agent": {"cpu": "10m"}}, "between 50m and 64"),
        ("SandboxClass", {"tier": "T3"}, 'supported values: "T0", "T1"'),
        ("OnionRelay", {"exit": {"allow": "Everywhere"}}, 'supported values: "Registered", "None"'),
        ("OnionRelay", {"bandwidth": "fast"}, "write bytes a second in whole units"),
        ("OnionRelay", {"burst": "1Ki"}, "write bytes in whole units, between 64Ki"),
        ("OnionRelay", {"identitySecretName": "Kept"}, "write the name of a Secret in this namespace"),
        ("OnionRelay", {"identitySecretName": "kept/identity-0"}, "write the name of a Secret in this namespace"),
        ("OnionRelay", {"identitySecretName": ""}, "write the name of a Secret in this namespace"),
        ("OnionRelay", {"replicas": 0}, "greater than or equal to 1"),
        ("OnionRelay", {"replicas": 17}, "less than or equal to 16"),
        ("StateChannel", changed(CHANNEL, "b", ACCOUNTS[0].lower()), "swap a and b"),
        ("StateChannel", CHANNEL | {"a": ACCOUNTS[1], "b": ACCOUNTS[0]}, "swap a and b"),
        ("StateChannel", changed(CHANNEL, "deposit", "0.1"), "spec.deposit"),
        ("TaskAssignment", changed(ASSIGNMENT, "taskId", "0x12"), "spec.taskId"),
    ],
)
def test_other_kinds_are_refused_with_what_to_write_instead(cluster_release: Cluster, kind, spec, words):
    stored, refusal = dry_run(cluster_release, manifest(kind, "refused", spec))
    assert stored is None
    assert words in refusal


# -- what others agreed to


@pytest.mark.parametrize(
    ("kind", "spec", "path", "value"),
    [
        ("ComputeTask", SPEC, "payment.budget", "1"),
        ("ComputeTask", SPEC, "roles.0.args", ["other"]),
        ("TaskAssignment", ASSIGNMENT, "index", 2),
        ("StateChannel", CHANNEL, "deposit", "1"),
        ("Dataset", DATASET, "custody", "Store"),
        ("Dataset", DATASET, "size", 7),
        ("SandboxClass", {"tier": "T0"}, "tier", "T1"),
    ],
)
def test_what_others_rely_on_never_changes(make, kind, spec, path, value):
    made = make(kind, spec)
    patch = changed({}, path, value) if "0" not in path else {"roles": changed(spec, path, value)["roles"]}
    result = made.cluster.run("patch", *made.target, "--type=merge", "--patch", json.dumps({"spec": patch}))
    assert result.returncode != 0
    assert "never changes" in result.stderr or "make another class" in result.stderr


def test_an_owner_may_change_who_is_granted_the_data(make):
    made = make("Dataset", DATASET)
    made.cluster.kubectl("patch", *made.target, "--type=merge", "--patch", json.dumps({"spec": {"policy": {"requesters": [ACCOUNTS[0]]}}}))
    assert made.cluster.get(*made.target)["spec"]["policy"]["requesters"] == [ACCOUNTS[0]]


# -- how it feels


def test_users_find_the_kinds_by_their_short_names_category_and_fields(make):
    status = make("ComputeTask", SPEC)
    assert status.patch("Requested", phase="Requested", taskId=TASK_ID) == ""
    cluster, (_, name) = status.cluster, status.target
    header, row = cluster.kubectl("get", "ct", "--field-selector", f"status.taskId={TASK_ID}").splitlines()
    assert header.split() == ["NAME", "PHASE", "KEY", "RESULT", "DESTROYED", "SETTLED", "AGE"]
    assert row.split()[:2] == [name, "Requested"]
    assert f"computetask.veilpod.dev/{name}" in cluster.kubectl("get", "veilpod", "--output=name").split()
    assert "exact decimal strings" in cluster.kubectl("explain", "computetask.spec.payment")


def test_an_upgrade_takes_over_the_classes_that_the_install_made(cluster_release: Cluster):
    def classes() -> dict[str, str]:
        return {item["metadata"]["name"]: item["metadata"]["uid"] for item in cluster_release.get("sandboxclasses")["items"]}

    before = classes()
    assert {"standard", "sandboxed"} <= set(before)
    command = ["helm", "upgrade", "veilpod", str(layout.REPOSITORY / "helm" / "veilpod"), "--namespace", "veilpod-system"]
    command += ["--set", "cluster.install=true"]
    result = subprocess.run(command, env=cluster_release.environment, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert classes() == before
