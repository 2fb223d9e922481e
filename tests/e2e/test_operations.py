"""What who runs a cluster does, or lives through, while a task runs: upgrades, a lost node, a namespace deleted, a second release."""

import pathlib

import pytest
from demo import chain, install
from demo.parties import PARTIES, REQUESTER, SERVERS
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


def said(stage: Stage, task: str, kind: str) -> set[tuple[str, str]]:
    """What the servers say of one condition of their parts in a task: status and reason. The parts outlive the ComputeTask."""
    items = playing.objects(stage, "taskassignment")
    found = [c for item in items if item["spec"]["taskId"] == task for c in item["status"]["conditions"] if c["type"] == kind]
    return {(condition["status"], condition["reason"]) for condition in found}


def running(stage: Stage, name: str) -> str:
    """Start a task that goes on until it is stopped; its id, once its program runs."""
    playing.start(stage, name, roles=playing.ENDLESS)
    playing.reached(stage, name, "InputsVerified")
    return str(stage.cluster.get("ct", name, "-n", REQUESTER.name)["status"]["taskId"])


def test_a_second_party_does_not_move_into_a_namespace(stage: Stage) -> None:
    values = install.values(SERVERS[1], stage.references, stage.contracts)
    with pytest.raises(progress.Failure, match=f"namespace {SERVERS[0].name} already has a party, the release {SERVERS[0].name}"):
        install.helm(stage.cluster, "second", SERVERS[0].name, values)
    assert "second" not in stage.cluster.run("helm", "list", "--all-namespaces", "--short").split()


def test_sandboxes_are_not_left_behind_in_a_namespace_that_nobody_looks_at(stage: Stage) -> None:
    values = install.values(SERVERS[0], stage.references, stage.contracts)
    values["compute"] |= {"sandboxNamespace": "elsewhere"}
    with pytest.raises(progress.Failure, match=f"sandboxNamespace was {SERVERS[0].name}-sandboxes and its sandboxes may still run"):
        install.helm(stage.cluster, SERVERS[0].name, SERVERS[0].name, values)


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
        # An operator that comes back may close a channel in the moment in which its peer, which waited, does so too.
        assert {transaction["function"] for transaction in ledger.transactions() if not transaction["ok"]} <= {"close"}
        assert ledger.balances()["equation"]["holds"]
    assert "Failed" not in {kind for kind, c in playing.conditions(stage, "upgraded").items() if c["status"] == "True"}
    playing.forget(stage, "upgraded")


def test_a_sandbox_on_a_lost_node_is_not_gone_and_its_server_not_paid_until_the_node_says_so(stage: Stage) -> None:
    task = running(stage, "stranded")
    kubelet = ("pkill", "-x", "kubelet", "--signal")
    inspect.run_inside(stage.cluster.name, (*kubelet, "STOP")).check_returncode()
    try:
        playing.delete(stage, "stranded")
        playing.until(lambda: said(stage, task, "SandboxDestroyed") == {("Unknown", "NodeUnreachable")}, "the node is missed")
        assert len(playing.sandbox_pods(stage)) == len(SERVERS)
        for later in ("KeyRevoked", "Settled"):
            assert "True" not in {status for status, _ in said(stage, task, later)}
    finally:
        inspect.run_inside(stage.cluster.name, (*kubelet, "CONT")).check_returncode()
    playing.forget(stage, "stranded")
    assert said(stage, task, "SandboxDestroyed") == {("True", "Observed")}
    assert playing.sandbox_pods(stage) == []


def test_a_sandbox_namespace_deleted_under_a_task_goes_after_its_sandboxes_and_comes_back_with_an_upgrade(stage: Stage) -> None:
    server = SERVERS[0]
    namespace = f"{server.name}-sandboxes"
    with chain.reachable(stage.cluster) as web3:
        first = web3.eth.block_number
        task = running(stage, "evicted")
        stage.cluster.kubectl("delete", "namespace", namespace, "--timeout=120s", timeout=150)
        try:
            playing.reached(stage, "evicted", "Failed")
            playing.until(lambda: said(stage, task, "SandboxDestroyed") == {("True", "Observed")}, "every end is observed")
        finally:
            install.release(stage.cluster, server, stage.references, stage.contracts)
        playing.forget(stage, "evicted")
        assert playing.ledger(stage, web3, first).balances()["equation"]["holds"]
        playing.start(stage, "returned")
        playing.reached(stage, "returned", "Settled")
        playing.forget(stage, "returned")
