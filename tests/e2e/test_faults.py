"""What happens to a task, and to the money, when somebody dies, leaves, changes their mind or is not reachable."""

from collections import Counter

import pytest
from demo import chain, parties
from demo.stage import Stage

from localcluster import waiting
from tests.support import playing

pytestmark = pytest.mark.e2e

PHASES = ("Requested", "ChannelsOpen", "SandboxReady", "KeyPublished", "InputsVerified", "Computed", "SandboxDestroyed")
ENDS = ("task Completed", "task Closed", "channel Closed", "channel Challenged")


def test_a_task_settles_once_although_every_operator_is_killed_in_each_phase(stage: Stage) -> None:
    with chain.reachable(stage.cluster) as web3:
        first = web3.eth.block_number
        playing.start(stage, "killed")
        for phase in PHASES:
            playing.reached(stage, "killed", phase)
            for party in (parties.REQUESTER, *parties.SERVERS):
                playing.kill_operator(stage, party)
        playing.reached(stage, "killed", "Settled")
        transactions = playing.ledger(stage, web3, first).transactions()
        happened = playing.happened(stage, web3, first, "killed")
    assert [t for t in transactions if not t["ok"]] == []
    once = {f"task {name}": 1 for name in ("Requested", "Assigned", "KeyPublished", "Completed")}
    channels = {f"channel {name}": 2 for name in ("Opening", "Opened", "Closed")}
    assert {what: times for what, times in happened.items() if what != "task Reported"} == once | channels
    reports = Counter(t["sender"] for t in transactions if t["function"] == "report")
    assert set(reports.values()) <= {1}
    assert playing.sandbox_pods(stage) == []
    playing.forget(stage, "killed")


def test_a_chain_that_is_away_during_settlement_delays_it_and_pays_once(stage: Stage) -> None:
    with chain.reachable(stage.cluster) as web3:
        first = web3.eth.block_number
        playing.start(stage, "chainless")
        playing.reached(stage, "chainless", "ResultDelivered")
        with playing.chain_away(stage):
            waiting.pause(30)  # longer than everything that waits for an answer
        playing.reached(stage, "chainless", "Settled")
        transactions = playing.ledger(stage, web3, first).transactions()
        happened = playing.happened(stage, web3, first, "chainless")
        assert playing.ledger(stage, web3, first).balances()["equation"]["holds"]
    # Both sides of a channel may have wanted to close it while neither could see the other do so: the second one is refused, and only that.
    assert {t["function"] for t in transactions if not t["ok"]} <= {"close"}
    ends = {what: times for what, times in happened.items() if what in ENDS}
    assert ends == {"task Completed": 1, "channel Closed": 2}
    playing.forget(stage, "chainless")


def test_a_task_deleted_in_any_phase_is_torn_down_then_settled_then_gone(stage: Stage) -> None:
    names = {phase: f"deleted-{phase.lower()}" for phase in ("Requested", "ChannelsOpen", "KeyPublished", "InputsVerified", "Computed")}
    for phase, name in names.items():
        playing.start(stage, name)
        playing.reached(stage, name, phase)
        playing.delete(stage, name)  # it ends while the next one begins
    for name in names.values():
        playing.forget(stage, name)
    assert playing.sandbox_pods(stage) == []
    for server in parties.SERVERS:
        for item in stage.cluster.get("taskassignment", "-n", server.name)["items"]:
            destroyed = next(c for c in item["status"]["conditions"] if c["type"] == "SandboxDestroyed")
            assert destroyed["status"] == "True"


def test_a_cluster_that_enforces_no_policy_gets_no_key(stage: Stage) -> None:
    from localcluster import inspect

    inspect.switch_netpol(stage.cluster.name, on=False)
    try:
        playing.start(stage, "unfenced")
        playing.reached(stage, "unfenced", "Failed")
        assert playing.conditions(stage, "unfenced")["KeyPublished"]["status"] == "False"
        ours = playing.assignments(stage, "unfenced")
        assert {item["status"]["failure"]["code"] for item in ours} == {"NetguardRefused"}
        assert [item for item in ours if item["status"].get("keyFingerprint")] == []
    finally:
        inspect.switch_netpol(stage.cluster.name, on=True)
        playing.forget(stage, "unfenced")


def test_a_policy_that_an_admin_takes_away_ends_every_sandbox_behind_it(stage: Stage) -> None:
    playing.start(stage, "unsealed", roles=playing.ENDLESS)
    playing.reached(stage, "unsealed", "InputsVerified")
    with playing.policy_away(stage, "veilpod-sandbox-access"):
        playing.until(lambda: playing.sandbox_pods(stage) == [], "no sandbox is left", timeout=60)
        ours = playing.assignments(stage, "unsealed")
        denied = [c for item in ours for c in item["status"]["conditions"] if c["type"] == "HostAccessDenied"]
        assert {(c["status"], c["reason"]) for c in denied} == {("False", "PolicyMissing")}
        assert all("veilpod-sandbox-access; what to do:" in c["message"] for c in denied)
        # Who hears of it late may lose its peers first, and its program with them.
        codes = {item["status"]["failure"]["code"] for item in ours}
        assert "PolicyMissing" in codes <= {"PolicyMissing", "PeerLost", "ProgramFailed"}
    playing.forget(stage, "unsealed")


def test_a_sandbox_pod_deleted_by_somebody_is_noticed_and_no_money_is_lost(stage: Stage) -> None:
    with chain.reachable(stage.cluster) as web3:
        first = web3.eth.block_number
        playing.start(stage, "robbed")
        playing.reached(stage, "robbed", "ChannelsOpen")
        playing.until(lambda: len(playing.sandbox_pods(stage)) == 3, "three sandboxes")
        victim = playing.sandbox_pods(stage)[0]["metadata"]
        stage.cluster.kubectl("delete", "pod", victim["name"], "-n", victim["namespace"], "--wait=false")
        playing.until(
            lambda: any(playing.conditions(stage, "robbed").get(kind, {}).get("status") == "True" for kind in ("Settled", "Failed")),
            "the task ends, well or with a reason",
        )
        playing.forget(stage, "robbed")
        assert playing.ledger(stage, web3, first).balances()["equation"]["holds"]
    assert playing.sandbox_pods(stage) == []


def test_channels_without_a_last_word_are_settled_after_the_challenge_period(stage: Stage) -> None:
    """Tasks deleted above left channels whose peers never met: each side challenges with what it has, and time decides."""
    with chain.reachable(stage.cluster) as web3:

        def open_channels() -> list[str]:
            return [item["metadata"]["name"] for item in playing.objects(stage, "statechannel") if item["status"].get("phase") != "Closed"]

        # First the patience for a peer that may still sign, then the challenge period: each is over after a jump.
        for _ in range(16):
            playing.pass_time(stage, web3, 3700)
            if waiting.until(lambda: open_channels() == [], timeout=15, every=1):
                break
        assert open_channels() == []
