"""The example, played as `make demo` plays it, and every claim of its report checked."""

import datetime
import json
from typing import Any

import pytest
from demo import chain, collect, ledger, page, parties, play, pods
from demo.stage import Stage

pytestmark = pytest.mark.e2e

IN_ORDER = (
    "Requested",
    "Scheduled",
    "ChannelsOpen",
    "KeyPublished",
    "InputsVerified",
    "Computed",
    "SandboxDestroyed",
    "KeyRevoked",
    "Settled",
)


@pytest.fixture(scope="module")
def report(stage: Stage) -> dict[str, Any]:
    """Play the example once; leave the report where `make demo` leaves it."""
    namespaces = [f"{server.name}-sandboxes" for server in parties.SERVERS]
    with chain.reachable(stage.cluster) as web3, pods.watched(stage.cluster, namespaces, parties.WORK / "pods.jsonl"):
        first = web3.eth.block_number
        play.run_task(stage.cluster, stage.references["tumour-model"])
        play.read_result(stage.cluster, chain.url(web3))
        chain.wait_blocks(web3, 2)
        window = ledger.Ledger(web3=web3, contracts=stage.contracts, first=first, last=web3.eth.block_number)
        found = collect.report(stage.cluster, window, play.TASK, stage.references)
    (parties.WORK / "report.json").write_text(json.dumps(found, indent=1, sort_keys=True))
    return found


def test_the_federated_model_is_as_good_as_pooled_data_and_better_than_the_worse_hospital(report: dict[str, Any]) -> None:
    assert report["accuracy"]["withinOnePointOfPooled"]
    assert report["accuracy"]["beatsWorseHospital"]


def test_every_coin_is_accounted_for(report: dict[str, Any]) -> None:
    assert report["balances"]["equation"]["holds"], report["balances"]["equation"]


def test_no_transaction_failed(report: dict[str, Any]) -> None:
    assert report["transactions"]
    assert [t for t in report["transactions"] if not t["ok"]] == []


def test_the_task_went_through_every_condition(report: dict[str, Any]) -> None:
    conditions = report["conditions"][f"{parties.REQUESTER.name}/computetask/{play.TASK}"]
    true = {c["type"]: c["lastTransitionTime"] for c in conditions if c["status"] == "True"}
    assert [step for step in IN_ORDER if step not in true] == []
    times = [true[step] for step in IN_ORDER]
    assert times == sorted(times)


def test_attestation_is_honestly_absent(report: dict[str, Any]) -> None:
    for name, conditions in report["conditions"].items():
        if "/taskassignment/" in name:
            attested = next(c for c in conditions if c["type"] == "Attested")
            assert (attested["status"], attested["reason"]) == ("False", "NoTEE")


def test_every_sandbox_was_seen_to_die_before_anybody_was_paid(report: dict[str, Any]) -> None:
    completed = next(t for t in report["transactions"] if t["function"] == "complete")
    assert len(report["sandboxes"]) == len(parties.SERVERS)
    for sandbox in report["sandboxes"]:
        evidence = sandbox["evidence"]
        assert evidence["containersTerminated"] <= evidence["nodeConfirmed"] <= evidence["gone"]
        assert sandbox["destroyed"]
        gone = datetime.datetime.fromisoformat(evidence["gone"]).timestamp()
        assert gone <= completed["time"] + 1  # the chain's clock has whole seconds


def test_both_sides_of_each_channel_agree_on_what_was_transferred(report: dict[str, Any]) -> None:
    assert len(report["channels"]) == 2
    for channel in report["channels"]:
        assert channel["updates"] >= 1
        assert len(channel["sides"]) == 2
        assert len(channel["transcriptHead"]) == 1
        deposits = int(channel["opening"]["depositA"]) + int(channel["opening"]["depositB"])
        assert int(channel["payout"]["a"]) + int(channel["payout"]["b"]) == deposits


def test_bytes_went_through_circuits_of_three_owners(report: dict[str, Any]) -> None:
    assert report["circuits"]
    for circuit in report["circuits"]:
        assert len(set(circuit["relays"])) == len(circuit["relays"]) >= 3
    assert sum(circuit["sent"] + circuit["received"] for circuit in report["circuits"]) > 0


def test_the_report_is_one_file_a_person_can_open(report: dict[str, Any]) -> None:
    text = page.render(report)
    assert "<script" not in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text
