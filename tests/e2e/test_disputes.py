"""Parties that leave for good, and a chain that stands still meanwhile. Nobody who stayed loses money, and nobody needs those who left."""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from demo import chain, install
from demo.parties import REQUESTER, SERVERS, Party
from demo.stage import Stage
from web3 import Web3

from localcluster import waiting
from tests.support import playing

pytestmark = pytest.mark.e2e

TOTAL = 1800  # seconds: the task's last deadline
PERIOD = 3600  # seconds: the channels' challenge period
# With the time until the operators say so, longer than everything in them that waits for an answer. Five minutes are the same.
HALT = int(os.environ.get("VEILPOD_HALT_SECONDS", "15"))


def open_channels(stage: Stage) -> list[dict[str, Any]]:
    """Every server's channels that are not closed."""
    return [item for item in playing.objects(stage, "statechannel") if item.get("status", {}).get("phase") != "Closed"]


def channels(stage: Stage, server: Party) -> list[dict[str, Any]]:
    """A server's channels that are not closed."""
    return [item for item in open_channels(stage) if item["metadata"]["namespace"] == server.name]


def unsettled(stage: Stage) -> list[str]:
    """Every channel whose money is not home."""
    items = playing.objects(stage, "statechannel")
    done = {i["metadata"]["uid"] for i in items for c in i["status"]["conditions"] if (c["type"], c["status"]) == ("Settled", "True")}
    return [item["metadata"]["name"] for item in items if item["metadata"]["uid"] not in done]


def task_id(stage: Stage, name: str) -> str:
    return str(stage.cluster.get("computetask", name, "-n", REQUESTER.name)["status"]["taskId"])


def phase(stage: Stage, server: Party, channel: str) -> str:
    return str(stage.cluster.get("statechannel", channel, "-n", server.name)["status"]["phase"])


def ready(stage: Stage, party: Party) -> bool:
    return bool(stage.cluster.get("deployment", f"{party.name}-operator", "-n", party.name)["status"].get("readyReplicas"))


def until_after(stage: Stage, web3: Web3, condition: Callable[[], bool]) -> None:
    """Let a challenge period pass on the chain, and another, until the operators have brought something about."""
    for _ in range(16):
        playing.pass_time(stage, web3, PERIOD + 100)
        if waiting.until(condition, timeout=10, every=1):
            return
    raise AssertionError("sixteen challenge periods were not enough")


@contextlib.contextmanager
def gone(stage: Stage, party: Party) -> Iterator[None]:
    """The party's release is deleted; it comes back only for the tests that follow."""
    stage.cluster.run("helm", "uninstall", party.name, "-n", party.name, "--wait")
    try:
        yield
    finally:
        install.release(stage.cluster, party, stage.references, stage.contracts)
        stage.cluster.kubectl("rollout", "status", "deployment", "-n", party.name, "--timeout=240s")


def test_a_server_whose_peer_left_for_good_is_paid_by_the_newest_state(stage: Stage) -> None:
    with chain.reachable(stage.cluster) as web3:
        first = web3.eth.block_number
        playing.start(stage, "widowed", roles=playing.ENDLESS)
        playing.reached(stage, "widowed", "InputsVerified")
        playing.until(lambda: any(c["status"].get("sequence", 0) >= 50 for c in open_channels(stage)), "fifty updates")
        hub = max(SERVERS, key=lambda server: len(channels(stage, server)))
        leaver = next(server for server in SERVERS if server != hub)
        (between,) = {c["metadata"]["name"] for c in channels(stage, leaver)} & {c["metadata"]["name"] for c in channels(stage, hub)}
        with gone(stage, leaver):
            playing.delete(stage, "widowed")
            playing.until(lambda: playing.conditions(stage, "widowed").get("Failed", {}).get("status") == "True", "the task is given up")
            playing.until(lambda: _destroyed(stage, [server for server in SERVERS if server != leaver]), "the others are torn down")
            # The server's last deadline passes, then the patience for its close: the one who stayed goes to the chain.
            until_after(stage, web3, lambda: phase(stage, hub, between) == "Disputed")
            with playing.chain_away(stage):
                playing.until(lambda: not ready(stage, hub), "the operator says that the chain is away")
                waiting.pause(HALT)
            playing.until(lambda: ready(stage, hub), "the operator goes on")
            until_after(stage, web3, lambda: channels(stage, hub) == [])  # the challenge period
            newest = stage.cluster.get("statechannel", between, "-n", hub.name)
            ledger = playing.ledger(stage, web3, first)
            closed = [event for event in ledger.events("channels") if event["name"] == "Closed"]
            (ours,) = [e for e in closed if bytes(e["args"]["channelId"]).hex() == newest["spec"]["channelId"].removeprefix("0x")]
            assert ours["channel"].sequence == newest["status"]["sequence"] >= 50
            assert ledger.balances()["equation"]["holds"]
        playing.forget(stage, "widowed")
    playing.until(lambda: playing.sandbox_pods(stage) == [], "the sandbox of the one who left is gone too")


def _destroyed(stage: Stage, servers: list[Party]) -> bool:
    names = {server.name for server in servers}
    found = [item for item in playing.objects(stage, "taskassignment") if item["metadata"]["namespace"] in names]
    live = [item for item in found if "deletionTimestamp" not in item["metadata"]]
    return all(
        any(c["type"] == "SandboxDestroyed" and c["status"] == "True" for c in item["status"].get("conditions", ())) for item in live
    )


def test_when_everybody_is_away_a_stranger_closes_the_task_and_the_requester_is_refunded(stage: Stage) -> None:
    with chain.reachable(stage.cluster) as web3:
        first = web3.eth.block_number
        playing.start(stage, "abandoned", roles=playing.ENDLESS)
        playing.reached(stage, "abandoned", "KeyPublished")
        task = task_id(stage, "abandoned")
        everybody = (REQUESTER, *SERVERS)
        try:
            for party in everybody:
                stage.cluster.kubectl("scale", f"deployment/{party.name}-operator", "-n", party.name, "--replicas=0")
            for party in everybody:
                stage.cluster.kubectl(
                    "wait", "--for=delete", "pod", "-l", "veilpod.dev/component=operator", "-n", party.name, "--timeout=120s"
                )
            playing.pass_time(stage, web3, TOTAL + 60)
            contract = web3.eth.contract(
                address=Web3.to_checksum_address(stage.contracts["scheduler"]), abi=chain.artifacts()["TaskScheduler"]
            )
            stranger = web3.eth.accounts[7]
            sent = contract.functions.refund(bytes.fromhex(task.removeprefix("0x"))).transact({"from": stranger})
            assert web3.eth.wait_for_transaction_receipt(sent, timeout=30)["status"] == 1
            ledger = playing.ledger(stage, web3, first)
            (closed,) = [event for event in ledger.events("scheduler") if event["name"] == "Closed"]
            assert closed["args"]["refunded"] >= Web3.to_wei("0.05", "ether"), "the whole budget"
        finally:
            for party in everybody:
                stage.cluster.kubectl("scale", f"deployment/{party.name}-operator", "-n", party.name, "--replicas=1")
            for party in everybody:
                stage.cluster.kubectl("rollout", "status", f"deployment/{party.name}-operator", "-n", party.name, "--timeout=240s")
        playing.reached(stage, "abandoned", "Failed")
        playing.forget(stage, "abandoned")
        until_after(stage, web3, lambda: not unsettled(stage))  # the next test finds nothing under way
        assert playing.ledger(stage, web3, first).balances()["equation"]["holds"]
    playing.until(lambda: playing.sandbox_pods(stage) == [], "no sandbox is left")
