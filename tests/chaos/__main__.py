"""`make chaos`: every crash point once, then a thousand kills at random moments; build/chaos/report.json says what was left of it.

A fresh local cluster, taken down again however this ends. Random moments follow from the seed, as far as a machine's speed lets them. Fails
when anything is left over, settled twice, alive behind its settlement, or when an operator did not come by a crash point.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

NAME = os.environ["VEILPOD_STAGE"] = f"chaos-{os.getpid()}"  # the demo's stage is set on a cluster and in a folder of its own

from bench.report import commit, machine
from demo import chain, parties, pods
from demo import cluster as clusters
from demo import stage as setting

from localcluster import progress, waiting
from tests.chaos import leftovers, small
from tests.chaos.leftovers import Leftovers
from tests.chaos.points import PERIOD, Points
from tests.chaos.storm import Tasks, rage
from tests.support import playing
from tests.support.crash_points import places, points

REPORT = parties.ROOT / "build" / "chaos" / "report.json"
CAPACITY = 16  # sandboxes of each server
SETTLING = 1800.0  # seconds for everything that is under way when the last operator was killed


def main() -> int:
    """Run what is asked for, write the report, say whether it holds."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--at-once", type=int, default=20, help="tasks under way at once")
    parser.add_argument("--only", choices=["points", "kills"])
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    begin = time.monotonic()
    progress.say(f"Chaos with seed {options.seed}")
    with fresh() as stage, chain.reachable(stage.cluster) as web3, _watched(stage) as watched:
        first, report = web3.eth.block_number, dict[str, Any](seed=options.seed, kills=0)
        if options.only != "kills":
            progress.say("\nEvery crash point")
            lives = Points(stage, web3)
            lives.play()
            report |= {"crash_points": len(points(places())), "never_died_at": lives.missing(), "deaths": lives.deaths()}
        if options.only != "points":
            progress.say("\nKills at random")
            tasks = Tasks(stage=stage, recipient=small.recipient_of(stage), at_once=options.at_once, chance=random.Random(options.seed))
            killed = rage(stage, kills=options.kills, tasks=tasks)
            report |= {"kills": sum(killed.values()), "killed": killed}
            with progress.step("everything settles"):
                settle(stage, web3, tasks)
        with progress.step("what is left"):
            left = leftovers.count(stage, web3, first, watched)
    report |= told(left) | {"seconds": round(time.monotonic() - begin), "commit": commit(), "machine": machine()}
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=1) + "\n")
    return verdict(report)


def told(left: Leftovers) -> dict[str, Any]:
    """What the report says of it."""
    return {
        "tasks": left.tasks,
        "orphans": left.orphans,
        "double_settlements": len(left.twice),
        "alive_after_settlement": len(left.alive),
        "unwitnessed": len(left.unwitnessed),
        "left": dataclasses.asdict(left),
    }


def verdict(report: dict[str, Any]) -> int:
    """Print the table. Raises Failure when a bound is broken."""
    rows = {
        "tasks": report["tasks"],
        "crash points": report.get("crash_points", "-"),
        "deaths at them": sum(map(len, report.get("deaths", {}).values())) or "-",
        "random kills": report["kills"],
        "orphans": report["orphans"],
        "settled twice": report["double_settlements"],
        "alive after settlement": report["alive_after_settlement"],
        "ends not witnessed": report["unwitnessed"],
        "refused transactions": sum(report["left"]["refused"].values()),
    }
    progress.say("")
    for name, value in rows.items():
        progress.say(f"  {name:<24}{value:>8}")
    progress.say(f"\n{REPORT.relative_to(parties.ROOT)}, seed {report['seed']}, {report['seconds']} s")
    bounds = ("orphans", "double_settlements", "alive_after_settlement", "never_died_at")
    if broken := [name for name in bounds if report.get(name)]:
        raise progress.Failure(f"broken: {', '.join(broken)}", next=f"read {REPORT.relative_to(parties.ROOT)}")
    return 0


def settle(stage: setting.Stage, web3: Any, tasks: Tasks) -> None:
    """Let everything end, delete it, and wait until it is gone, as far as it goes: what stays is counted."""
    waiting.until(lambda: tasks.look(more=False) == 0, timeout=SETTLING, every=3)
    for _ in range(8):
        if not _channels_open(stage):
            break
        playing.pass_time(stage, web3, PERIOD)  # channels of deleted tasks whose peers never met
        waiting.until(lambda: not _channels_open(stage), timeout=30, every=2)
    leftovers.delete_all(stage)
    waiting.until(lambda: not leftovers.objects(stage) and not playing.sandbox_pods(stage), timeout=180, every=2)


def _channels_open(stage: setting.Stage) -> list[str]:
    return [
        item["metadata"]["name"]
        for item in playing.objects(stage, "statechannel")
        if not any((c["type"], c["status"]) == ("Settled", "True") for c in item.get("status", {}).get("conditions", ()))
    ]


@contextlib.contextmanager
def fresh() -> Iterator[setting.Stage]:
    """The demo's strangers on a local cluster of our own, taken down however this ends. Who reads of a failure finds the logs."""
    try:
        with clusters.fresh(NAME) as cluster:
            stage = setting.prepare(cluster)
            with progress.step(f"servers of {CAPACITY} sandboxes each"):
                small.offer(stage)
                playing.reconfigure(stage, capacity=CAPACITY)
            yield stage
    finally:
        shutil.rmtree(parties.WORK, ignore_errors=True)


@contextlib.contextmanager
def _watched(stage: setting.Stage) -> Iterator[pathlib.Path]:
    file = parties.WORK / "pods.jsonl"
    with pods.watched(stage.cluster, [f"{server.name}-sandboxes" for server in parties.SERVERS], file):
        yield file


if __name__ == "__main__":
    try:
        progress.run(main)
    except AssertionError as error:
        progress.complain(progress.Failure(str(error)))
        sys.exit(1)
