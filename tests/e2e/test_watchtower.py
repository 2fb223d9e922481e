"""A watchtower on a real cluster: every operator is away, a server publishes old states of its channels, and does not get away with it."""

import asyncio
import contextlib
import json
import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from demo import chain, images, install, parties
from demo.parties import SERVERS, Party
from demo.stage import Stage

from tests.support import cheating, playing
from veilpod.core.keys import signing_key

pytestmark = pytest.mark.e2e

TOWER = Party(name="tower", role="watchtower")
BLOCKS = 5  # of one second: seen one block later, sent, mined


@pytest.fixture(scope="module")
def tower(stage: Stage) -> Iterator[None]:
    """A stranger's watchtower, and three servers that use it."""
    references = stage.references | images.deliver(stage.cluster, "", [images.watchtower()])
    if not TOWER.key_file.exists():
        subprocess.run(
            [str(parties.ROOT / ".venv/bin/veilpod"), "keys", "new", "chain", str(TOWER.key_file)], check=True, capture_output=True
        )
    with chain.reachable(stage.cluster) as web3:
        chain.fund(web3, [TOWER])
    install.release(stage.cluster, TOWER, references, stage.contracts)
    stage.cluster.kubectl("rollout", "status", f"deployment/{TOWER.name}-watchtower", "-n", TOWER.name, "--timeout=240s")
    playing.reconfigure(stage, watchtowers=[{"url": f"http://{TOWER.name}-watchtower.{TOWER.name}.svc:9201", "address": TOWER.address}])
    try:
        yield
    finally:
        playing.reconfigure(stage, watchtowers=[])
        stage.cluster.run("helm", "uninstall", TOWER.name, "-n", TOWER.name)
        stage.cluster.kubectl("delete", "namespace", TOWER.name, "--wait=false")


def guards(stage: Stage, task: str) -> dict[str, dict[str, Any]]:
    """What the tower says it guards of a task's channels, by channel, asked as its owner would."""
    answer = stage.cluster.run("veilpod", "watchtower", "guards", "-n", TOWER.name, "--output", "json")
    specs = [item["spec"] for item in playing.objects(stage, "statechannel")]
    channels = {spec["channelId"] for spec in specs if spec["assignment"].startswith(f"ta-{task[2:18]}-")}
    return {guard["channelId"]: guard for guard in json.loads(answer)["guards"] if guard["channelId"] in channels}


@contextlib.contextmanager
def everybody_away(stage: Stage) -> Iterator[None]:
    """No operator of a computing server runs while the body does."""
    for server in SERVERS:
        stage.cluster.kubectl("scale", f"deployment/{server.name}-operator", "-n", server.name, "--replicas=0")
    try:
        operators = ("-l", "veilpod.dev/component=operator")
        playing.until(
            lambda: not any(stage.cluster.get("pods", *operators, "-n", s.name)["items"] for s in SERVERS), "every operator is gone"
        )
        yield
    finally:
        for server in SERVERS:
            stage.cluster.kubectl("scale", f"deployment/{server.name}-operator", "-n", server.name, "--replicas=1")
        for server in SERVERS:
            stage.cluster.kubectl("rollout", "status", f"deployment/{server.name}-operator", "-n", server.name, "--timeout=240s")


def of(events: list[dict[str, Any]], name: str, channel: str) -> list[dict[str, Any]]:
    return [event for event in events if event["name"] == name and bytes(event["args"]["channelId"]).hex() == channel.removeprefix("0x")]


@pytest.mark.usefixtures("tower")
def test_old_states_published_while_every_operator_is_away_are_answered_and_the_cheater_pays(stage: Stage, tmp_path: pathlib.Path) -> None:
    by_address = {server.address: server for server in SERVERS}
    with chain.reachable(stage.cluster) as web3:
        url = chain.url(web3)
        first = web3.eth.block_number
        playing.start(stage, "watched", roles=playing.ENDLESS)
        playing.reached(stage, "watched", "InputsVerified")
        task = stage.cluster.get("ct", "watched", "-n", parties.REQUESTER.name)["status"]["taskId"]
        playing.until(
            lambda: len([g for g in guards(stage, task).values() if g["sequence"] >= 3]) == 2,
            "the tower guards three states of each channel",
        )

        # What each cheater has on its disk, while there is still a pod to read it from.
        cheats = {}
        for channel, guard in guards(stage, task).items():
            cheater = by_address[guard["a"]]
            states = cheating.signed_by(stage, cheater, channel, tmp_path / channel)
            old = next(signed for signed in states if signed.state.epoch == guard["epoch"])
            cheats[channel] = (signing_key(cheater.key_file.read_text()), cheating.place_of(stage, cheater, channel), old)

        with everybody_away(stage):
            newest = guards(stage, task)
            plain, killed = sorted(cheats)
            for channel in (plain, killed):
                key, place, old = cheats[channel]
                assert old.state.sequence <= newest[channel]["sequence"] - 2
                asyncio.run(cheating.challenge(url, stage, key, place, old, tmp_path / f"cheater-{channel}"))
                if channel == killed:
                    kill = "delete pod --grace-period=0 --force --wait=false -l veilpod.dev/component=watchtower -n"
                    stage.cluster.kubectl(*kill.split(), TOWER.name)

                def answers(channel: str = channel) -> list[dict[str, Any]]:
                    return of(playing.ledger(stage, web3, first).events("channels"), "Responded", channel)

                playing.until(lambda answers=answers: bool(answers()), "the tower answers", timeout=120)
                (answer,) = answers()
                assert answer["channel"].sequence == newest[channel]["sequence"]
                if channel == plain:
                    (challenged,) = of(playing.ledger(stage, web3, first).events("channels"), "Challenged", channel)
                    assert answer["block"] - challenged["block"] <= BLOCKS

            stage.cluster.kubectl("rollout", "status", f"deployment/{TOWER.name}-watchtower", "-n", TOWER.name, "--timeout=240s")
            playing.until(lambda: all(guard["lastAnswer"] for guard in guards(stage, task).values()), "it says what it answered")
            mine = [t for t in playing.ledger(stage, web3, first).transactions() if str(t["sender"]).lower() == TOWER.address.lower()]
            assert [(t["function"], t["ok"]) for t in mine] == [("respond", True)] * 2, "once each, and nothing else"

            playing.pass_time(stage, web3, 3601)
            for channel, (key, place, old) in cheats.items():
                asyncio.run(cheating.finalize(url, stage, key, place, tmp_path / f"cheater-{channel}"))
                (closed,) = of(playing.ledger(stage, web3, first).events("channels"), "Closed", channel)
                (answer,) = of(playing.ledger(stage, web3, first).events("channels"), "Responded", channel)
                total, owned = old.state.total, answer["channel"].balance_a
                fine = min(total * place.terms.penalty_bps // 10_000, owned)
                assert fine > 0, "a server that cheats pays a fine"
                paid = closed["channel"]
                assert paid.sequence == newest[channel]["sequence"]
                assert (paid.balance_a, paid.balance_b) == (owned - fine, total - owned + fine)
        assert playing.ledger(stage, web3, first).balances()["equation"]["holds"]
    playing.forget(stage, "watched")
    playing.until(lambda: playing.sandbox_pods(stage) == [], "no sandbox is left")
