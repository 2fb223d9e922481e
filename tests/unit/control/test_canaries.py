"""What the operator itself knows that no sandbox may reach."""

import pathlib

import pytest
from tests.support.fake_cluster import FakeCluster

from veilpod.control import canaries
from veilpod.core.kinds import ENDPOINT_SLICES
from veilpod.errors import ClusterUnavailable
from veilpod.kube.connection import Connection


def test_a_pod_tries_what_it_was_given_itself_over_both_protocols(tmp_path: pathlib.Path) -> None:
    resolver = tmp_path / "resolv.conf"
    resolver.write_text("search svc.cluster.local\nnameserver 10.96.0.10\nnameserver 127.0.0.53\nnameserver fd00::a\noptions ndots:5\n")
    connection = Connection(server="https://192.0.2.1:6443", token_file=tmp_path / "token")
    found = canaries.of_process(connection, http_port=8080, resolver=resolver)
    assert {"169.254.169.254:80", "[fd00:ec2::254]:80", "192.0.2.1:6443"} <= set(found)
    assert {"udp://10.96.0.10:53", "10.96.0.10:53", "udp://[fd00::a]:53", "[fd00::a]:53"} <= set(found)
    assert not [text for text in found if "127.0.0" in text]  # every pod reaches its own loopback
    assert sum(text.endswith(":8080") for text in found) <= 1  # this pod's own address, as far as it has one


def test_outside_a_pod_only_the_metadata_service_is_known(tmp_path: pathlib.Path) -> None:
    connection = Connection(server="https://localhost:6443", token="t")
    assert canaries.of_process(connection, http_port=8080) == canaries.METADATA


async def test_the_api_server_is_tried_at_every_address_behind_its_service() -> None:
    cluster = FakeCluster()
    assert await canaries.behind_the_api(cluster) == ()
    body = {
        "metadata": {"name": "kubernetes"},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}],
        "ports": [{"name": "https", "port": 6443}],
    }
    cluster.put(ENDPOINT_SLICES, body, namespace="default")
    assert await canaries.behind_the_api(cluster) == ("10.0.0.1:6443", "10.0.0.2:6443")
    cluster.down = True
    with pytest.raises(ClusterUnavailable):
        await canaries.behind_the_api(cluster)
