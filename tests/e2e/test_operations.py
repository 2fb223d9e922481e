"""What who runs a cluster does, or lives through, while a task runs: upgrades, a lost node, a namespace deleted, a second release."""

import pathlib
from typing import Any

import pytest
from demo import chain, install
from demo.parties import PARTIES, SERVERS
from demo.stage import Stage

from localcluster import containerd, images, inspect, lifecycle, oci, progress
from tests.support import playing

pytestmark = pytest.mark.e2e


def next_version(stage: Stage, name: str, folder: pathlib.Path) -> str:
    """The same image with another label, so with other digests, as that of the next version would have."""
    repository, _, digest = stage.references[name].partition("@")
    node = lifecycle.require(stage.cluster.name).inner.pid
    manifest = containerd.document(node, digest)
    config = containerd.document(node, manifest["config"]["digest"])
    config["config"]["Labels"] = {"org.opencontainers.image.version": "next"}
    archive = folder / f"{name}.tar"
    oci.write(archive, f"{repository}:next", config, manifest["layers"], {})
    return images.load(stage.cluster.name, archive)[f"{repository}:next"]


def upgrade(stage: Stage, references: dict[str, str]) -> None:
    """Upgrade every release that has an operator, relays aside, and wait until its new pods are there."""
    parties = [party for party in PARTIES if party.role != "relay"]
    for party in parties:
        install.release(stage.cluster, party, references, stage.contracts)
    for party in parties:
        stage.cluster.kubectl("rollout", "status", "deployment", "-n", party.name, "--timeout=240s")


def destroyed(stage: Stage, name: str) -> list[dict[str, Any]]:
    """What every server says of the end of its sandbox."""
    return [c for item in playing.assignments(stage, name) for c in item["status"]["conditions"] if c["type"] == "SandboxDestroyed"]


def test_a_second_party_does_not_move_into_a_namespace(stage: Stage) -> None:
    values = install.values(SERVERS[1], stage.references, stage.contracts)
    with pytest.raises(progress.Failure, match=f"namespace {SERVERS[0].name} already has a party, the release {SERVERS[0].name}"):
        install.helm(stage.cluster, "second", SERVERS[0].name, values)
    assert "second" not in stage.cluster.run("helm", "list", "--all-namespaces", "--short").split()


def test_releases_upgraded_in_mid_task_change_nothing_for_it(stage: Stage, tmp_path: pathlib.Path) -> None:
    newer = stage.references | {name: next_version(stage, name, tmp_path) for name in ("operator", "agent")}
    with chain.reachable(stage.cluster) as web3:
        first = web3.eth.block_number
        playing.start(stage, "upgraded", roles=playing.SLOW)
        playing.until(lambda: len(playing.sandbox_pods(stage)) == len(SERVERS), "three sandboxes")
        before = {pod["metadata"]["uid"] for pod in playing.sandbox_pods(stage)}
        upgrade(stage, newer)
        try:
            playing.reached(stage, "upgraded", "InputsVerified")
            assert {pod["metadata"]["uid"] for pod in playing.sandbox_pods(stage)} == before, "no sandbox was replaced"
        finally:
            upgrade(stage, stage.references)  # back again, while the program runs
        playing.reached(stage, "upgraded", "Settled")
        ledger = playing.ledger(stage, web3, first)
        assert [transaction for transaction in ledger.transactions() if not transaction["ok"]] == []
        assert ledger.balances()["equation"]["holds"]
    assert "Failed" not in {kind for kind, c in playing.conditions(stage, "upgraded").items() if c["status"] == "True"}
    playing.forget(stage, "upgraded")


def test_a_sandbox_on_a_lost_node_is_not_gone_and_its_server_not_paid_until_the_node_says_so(stage: Stage) -> None:
    with chain.reachable(stage.cluster) as web3:
        first = web3.eth.block_number
        playing.start(stage, "stranded", roles=playing.ENDLESS)
        playing.reached(stage, "stranded", "InputsVerified")
        kubelet = ("pkill", "-x", "kubelet", "--signal")
        inspect.run_inside(stage.cluster.name, (*kubelet, "STOP")).check_returncode()
        try:
            playing.delete(stage, "stranded")
            lost = {("Unknown", "NodeUnreachable")}
            playing.until(lambda: {(c["status"], c["reason"]) for c in destroyed(stage, "stranded")} == lost, "the node is missed")
            assert len(playing.sandbox_pods(stage)) == len(SERVERS)
            assert playing.happened(stage, web3, first, "stranded").keys().isdisjoint({"task Reported", "task Closed", "channel Closed"})
        finally:
            inspect.run_inside(stage.cluster.name, (*kubelet, "CONT")).check_returncode()
        playing.forget(stage, "stranded")
        assert playing.ledger(stage, web3, first).balances()["equation"]["holds"]
    assert playing.sandbox_pods(stage) == []


def test_a_sandbox_namespace_deleted_under_a_task_goes_after_its_sandboxes_and_comes_back_with_an_upgrade(stage: Stage) -> None:
    server = SERVERS[0]
    namespace = f"{server.name}-sandboxes"
    with chain.reachable(stage.cluster) as web3:
        first = web3.eth.block_number
        playing.start(stage, "evicted", roles=playing.ENDLESS)
        playing.reached(stage, "evicted", "InputsVerified")
        stage.cluster.kubectl("delete", "namespace", namespace, "--timeout=120s", timeout=150)
        try:
            playing.reached(stage, "evicted", "Failed")
            reasons = {(c["status"], c["reason"]) for c in destroyed(stage, "evicted")}
            assert reasons == {("True", "Observed")}
        finally:
            install.release(stage.cluster, server, stage.references, stage.contracts)
        playing.forget(stage, "evicted")
        assert playing.ledger(stage, web3, first).balances()["equation"]["holds"]
        playing.start(stage, "returned")
        playing.reached(stage, "returned", "Settled")
        playing.forget(stage, "returned")
