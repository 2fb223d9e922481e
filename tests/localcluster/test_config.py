"""What the node's programs are told, and that it hangs together."""

import ipaddress
import json
import pathlib
import tomllib

import pytest

from localcluster import build, components, config, layout, node, pki


@pytest.fixture
def cluster(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> layout.Layout:
    monkeypatch.setattr(layout, "BUILD", tmp_path)
    return layout.Layout("unit")


def commands() -> list[components.Component]:
    return [components.etcd(), components.containerd(), components.apiserver(), components.forwarder(3), *components.after_apiserver()]


def test_every_file_that_a_command_names_is_written(cluster: layout.Layout) -> None:
    pki.issue_all(cluster.pki)
    config.write_all(cluster)
    inside = {str(path.relative_to(cluster.private)) for path in cluster.private.rglob("*") if path.is_file()}
    words = " ".join(word for component in commands() for word in component.command).replace("=", " ").split()
    named = {word.removeprefix(f"{layout.INSIDE}/") for word in words if word.startswith((str(layout.INSIDE_ETC), str(layout.INSIDE_PKI)))}
    assert named
    assert named <= inside


def test_every_program_that_is_started_is_built() -> None:
    for component in commands():
        path = pathlib.PurePosixPath(component.command[0])
        if path.parent.name == "kube":
            assert path.name in build.KUBE_PROGRAMS
        else:
            assert any(package.endswith(f"/{path.name}") for package in build.RUNTIME.packages)


def test_secrets_are_readable_by_their_owner_only(cluster: layout.Layout) -> None:
    pki.issue_all(cluster.pki)
    config.write_all(cluster)
    assert cluster.pki.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in cluster.etc.rglob("*") if path.is_file())


def test_a_kubeconfig_carries_its_keys(cluster: layout.Layout) -> None:
    pki.issue_all(cluster.pki)
    made = config.kubeconfig("https://127.0.0.1:1", "here", "admin", cluster.pki)
    assert made["users"][0]["user"].keys() == {"client-certificate-data", "client-key-data"}
    assert str(cluster.pki) not in json.dumps(made)


def test_containerds_configuration_keeps_to_the_nodes_directories() -> None:
    parsed = tomllib.loads(config.containerd())
    assert parsed["version"] == 3
    runtime = parsed["plugins"]["io.containerd.cri.v1.runtime"]
    assert runtime["containerd"]["runtimes"].keys() == {"runc", "gvisor"}
    strings = [parsed["root"], parsed["state"], parsed["grpc"]["address"], parsed["plugins"]["io.containerd.internal.v1.opt"]["path"]]
    assert all(path.startswith(("/var/", "/run/")) for path in strings)


def test_sockets_are_short_however_deep_the_checkout_is() -> None:
    assert len(layout.CONTAINERD_SOCKET) < 104


def test_pods_services_and_the_node_share_no_address() -> None:
    pods, services = ipaddress.ip_network(layout.POD_NETWORK), ipaddress.ip_network(layout.SERVICE_NETWORK)
    benchmarks = ipaddress.ip_network("198.18.0.0/15")
    assert pods.subnet_of(benchmarks)
    assert services.subnet_of(benchmarks)
    assert not pods.overlaps(services)
    nodes = ipaddress.ip_address(layout.NODE_ADDRESS)
    assert nodes not in pods
    assert nodes not in services
    assert {ipaddress.ip_address(layout.DNS_ADDRESS), ipaddress.ip_address(layout.API_SERVICE_ADDRESS)} <= set(services.hosts())


@pytest.mark.parametrize("name", ["", "A", "../x", "a/b", "-a", "a-", "x" * 33])
def test_a_name_that_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="a cluster's name"):
        layout.Layout(name)


def test_two_names_share_no_path_and_two_checkouts_no_cgroup(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    one, two = layout.Layout("one"), layout.Layout("two")
    here = one.cgroup
    with monkeypatch.context() as patch:
        patch.setattr(layout, "BUILD", tmp_path)
        assert layout.Layout("one").cgroup != here
    assert one.directory != two.directory
    assert one.cgroup != two.cgroup
    assert one.lock != two.lock


def test_the_phases_that_the_node_reports_are_those_that_up_waits_for() -> None:
    source = pathlib.Path(node.__file__).read_text()
    assert all(f'report("{phase}")' in source or f'print("{phase}"' in source for phase in node.PHASES)


def test_the_manifests_use_the_addresses_of_the_layout() -> None:
    manifests = "".join(path.read_text() for path in sorted((layout.SOURCES / "manifests").iterdir()))
    assert f"clusterIP: {layout.DNS_ADDRESS}" in manifests
    assert f"image: {config.PAUSE_IMAGE}" in manifests
    assert f"path: {layout.INSIDE_BIN}/kube" in manifests
