"""The way of a data set inside a cluster: from a store's pod over two circuits of three relay pods each, which meet at a rendezvous, to a
sandbox's agent, which verifies, opens and puts it in its place; beside plain TCP between two pods of the same cluster.

`python -m bench.cluster`. A fresh local cluster, taken down again however this ends. Operators and chain are played by a pod
(`bench.inside`); store, relays and sandbox are the product's images, the sandbox with its fence and its limits. All share this machine's
cores. Ways alternate, so noise hits all; the rows are medians and say from where to where the rounds went. A delivery is timed from the
store's order to the agent's word that the plaintext is verified and in its place.
"""

import argparse
import dataclasses
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence

from demo import cluster as stage
from demo import images

from bench.report import Row, write
from bench.usage import cgroup, cpu_seconds, machine_seconds
from bench.world import SIZE, Delivery, World, driving, install
from localcluster import layout, progress

ROUNDS = 3
WHOLE_CORE = 1000  # millis for the agent, where the product gives fewer


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What was seen in one round, MB/s and deliveries; `others` is how many cores all but the pods used."""

    plain: float
    circuit: float
    product: Delivery
    whole_core: Delivery
    others: float


def play(world: World, pods_cpu: Callable[[], float]) -> Round:
    """One round: each way once."""
    since, machine, own = time.monotonic(), machine_seconds(), pods_cpu()
    plain, circuit = world.transfer("plain"), world.transfer("circuit")
    product, whole_core = world.deliver(None), world.deliver(WHOLE_CORE)
    others = (machine_seconds() - machine - (pods_cpu() - own)) / (time.monotonic() - since)
    return Round(plain=plain, circuit=circuit, product=product, whole_core=whole_core, others=others)


def rows(rounds: Sequence[Round], size: int = SIZE) -> list[Row]:
    """Medians over the rounds; a ratio is made within a round."""
    megabytes = size / 1e6

    def row(name: str, value: Callable[[Round], float], unit: str, *, digits: int = 1, higher: bool = False) -> Row:
        found = sorted(value(each) for each in rounds)
        spread = f"{unit}, {found[0]:.{digits}f} to {found[-1]:.{digits}f}"
        return Row(name, round(statistics.median(found), digits), spread, better="higher" if higher else "lower")

    def part(name: str) -> Callable[[Round], float]:
        return lambda each: each.product.cpu[name] / (megabytes / 1e3)

    return [
        row("store-to-agent-mb-s", lambda each: megabytes / each.product.seconds, "MB/s", higher=True),
        row("pod-to-pod-mb-s", lambda each: each.plain, "MB/s, plain TCP", higher=True),
        row("ratio", lambda each: megabytes / each.product.seconds / each.plain, "of plain TCP", digits=4, higher=True),
        row("circuit-mb-s", lambda each: each.circuit, "MB/s, three relays and an exit", higher=True),
        row("ratio-to-circuit", lambda each: megabytes / each.product.seconds / each.circuit, "of one circuit", digits=3, higher=True),
        row("whole-core-agent-mb-s", lambda each: megabytes / each.whole_core.seconds, "MB/s, store to agent with a core", higher=True),
        row("meeting-s", lambda each: each.product.meeting, "s from the order to the grant", digits=2),
        row("opening-s", lambda each: each.product.opening, "s from the last byte to plaintext in place", digits=2),
        row("cpu-s-per-gb", lambda each: sum(part(name)(each) for name in each.product.cpu), "CPU seconds of the whole path"),
        *(row(f"{name}-cpu-s-per-gb", part(name), "CPU seconds") for name in rounds[0].product.cpu),
        row("others-cores", lambda each: each.others, f"of {os.cpu_count()} cores, used by all but the pods", digits=2),
    ]


def measure(where: stage.Cluster) -> list[Row]:
    """Bring everything onto the cluster and play the rounds."""
    progress.say("\nImages")
    wanted = [image for image in images.processes() if image.target in ("relay", "store", "agent")]
    references = images.deliver(where, "", wanted)

    progress.say("\nPods")
    with progress.step("relays, store, source, driver"):
        install(where, references)
    with driving(where) as driver:
        with progress.step(f"a sealed object of {SIZE >> 20} MiB"):
            world = World(where, references, driver)
            world.fill()
        pods = cgroup("/", layout.Layout(where.name).cgroup.lstrip("/"))
        rounds = []
        progress.say("\nRounds")
        for number in range(1, ROUNDS + 1):
            with progress.step(f"round {number} of {ROUNDS}") as step:
                rounds.append(play(world, lambda: cpu_seconds(pods)))
                last = rounds[-1]
                step.note(f"{SIZE / last.product.seconds / 1e6:.1f} MB/s store to agent, {last.plain:.0f} plain")
    return rows(rounds)


def main() -> int:
    """Build, measure, take down, print, write build/bench/cluster.json."""
    argparse.ArgumentParser(prog="bench.cluster", description=__doc__).parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    begin = time.monotonic()
    with stage.fresh(f"bench-{os.getpid()}") as where:
        found = measure(where)
    progress.say(f"\n{ROUNDS} rounds, {time.monotonic() - begin:.0f} s in all")
    write("cluster", found)
    return 0


if __name__ == "__main__":
    progress.run(main)
