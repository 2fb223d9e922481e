"""How long a task waits for its sandbox key, how long its sandbox takes to be gone, and what a task costs beside a bare Job.

`python -m bench.sandbox`. A fresh local cluster with the product's chart and images, taken down again however this ends; where, and why no
number has a wait for blocks in it, is in `market`. Tasks and Jobs take turns, so noise hits both.

- key-published: from the API server's first word of the ComputeTask to the condition KeyPublished on it, which the requester's operator
  sets when the transaction is final: specification, escrow, scheduling, pod, fence, keys, meeting in the mailbox, signatures, publication.
- destroyed: from the deletion of a ComputeTask whose program runs to the condition SandboxDestroyed of its TaskAssignment: cancelled on
  chain by the requester, seen there by the server, keys wiped, pod seen to end by the kubelet and to be gone. The bar is the pod's grace
  period and five seconds.
- task-over-job: from applied to the sealed result in the mailbox, over the same program as a bare Job from applied to Complete.
- api-writes: every POST, PUT, PATCH and DELETE of the requester's and the servers' operators to the API server, Events and refused ones
  included, from its audit log, over whole lives of tasks (applied to Settled). The kubelet's, the scheduler's, the controllers' and the
  user's own writes are a row of their own.
- idle: the agent's container while its program sleeps; the sandbox's whole pod beside the Job's.
- crowd: so many tasks applied at once, on as many processors as this machine has.

A p99 of fewer than a hundred samples is the worst of them; the unit says of how many.
"""

import argparse
import itertools
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ["VEILPOD_STAGE"] = "bench-sandbox"  # keys and values of the demo's stage go to a folder of their own

from demo import cluster as clusters
from demo import parties

from bench import audit, moments, usage
from bench.market import JOBS, WORK, Market, open_market
from bench.moments import APPLIED, DELETED, Moments
from bench.ranks import quantile
from bench.report import Row, write
from localcluster import layout, progress, waiting

TASKS, DELETIONS, STARS, CROWD = 20, 10, 3, 50
IDLE_SECONDS = 30.0
GRACE = 10.0  # seconds, the class's
NOTHING = ["python3", "-c", ""]
ENDLESS = ["python3", "-c", "import time; time.sleep(3600)"]
_NAMES = itertools.count(1)


class Bench:
    """The market, its watches and its audit log."""

    def __init__(self, market: Market, seen: Moments, log: audit.AuditLog) -> None:
        self._market, self._seen, self._log = market, seen, log
        self._published: list[float] = []

    def rounds(self, count: int) -> list[Row]:
        """Tasks and Jobs by turns."""
        ratios, whole, jobs, settled = [], [], [], []
        ours, others = 0, 0
        kinds: list[str] = []
        load: list[float] = []
        for number in range(1, count + 1):
            with progress.step(f"task and Job {number} of {count}") as step:
                job, task = self._name("job"), self._name("task")
                self._market.create(self._market.job(job, command=NOTHING))
                self._seen.wait(job, "Complete", timeout=120)
                self._log.news()
                self._market.create(self._market.task(task, command=NOTHING))
                self._seen.wait(task, "Settled", timeout=300)
                self._sound(task)
                mine, rest = audit.by_hand(self._log.news(), [party.name for party in WORK])
                ours, others = ours + mine.total(), others + rest.total()
                kinds = [f"{what} {number}" for what, number in mine.most_common()]
                whole.append(self._seen.span(task, APPLIED, "ResultDelivered"))
                jobs.append(self._seen.span(job, APPLIED, "Complete"))
                settled.append(self._seen.span(task, APPLIED, "Settled"))
                ratios.append(whole[-1] / jobs[-1])
                load.append(os.getloadavg()[0])
                self._published.append(self._seen.span(task, APPLIED, "KeyPublished"))
                step.note(f"key {self._published[-1]:.2f} s, result {whole[-1]:.2f} s, Job {jobs[-1]:.2f} s, {mine.total()} writes")
        progress.say(f"  the last one's writes: {', '.join(kinds)}")
        return [
            Row("api-writes-per-task", round(ours / count, 1), "writes of our operators to the API server", 12),
            Row("others-writes-per-task", round(others / count, 1), "writes of kubelet, scheduler, controllers and user"),
            Row("task-over-job-ratio", round(statistics.median(ratios), 2), "result in the mailbox over Job complete, median"),
            Row("task-s", round(statistics.median(whole), 2), "s from applied to the result, median"),
            Row("task-settled-s", round(statistics.median(settled), 2), "s from applied to settled, median"),
            Row("job-s", round(statistics.median(jobs), 2), "s from applied to complete, median"),
            Row("load", round(statistics.mean(load), 1), f"processes that wanted one of {os.cpu_count()} cores, others' included, mean"),
        ]

    def deletions(self, count: int) -> list[Row]:
        """Tasks deleted while their programs run."""
        spans, gone = [], []
        for number in range(1, count + 1):
            with progress.step(f"deletion {number} of {count}") as step:
                task = self._name("doomed")
                self._running(task)
                self._market.delete(task)
                self._seen.wait(task, moments.GONE, timeout=120)
                assignment = self._seen.assignment(task)
                self._seen.wait(assignment, "SandboxDestroyed", timeout=10)
                spans.append(self._seen.span(task, DELETED, "SandboxDestroyed", of=assignment))
                gone.append(self._seen.span(task, DELETED, moments.GONE))
                step.note(f"destroyed after {spans[-1]:.2f} s, settled and gone after {gone[-1]:.2f} s")
        return [
            Row("destroyed-p50-s", round(quantile(spans, 0.5), 2), "s from deletion to SandboxDestroyed"),
            Row("destroyed-p99-s", round(quantile(spans, 0.99), 2), f"s, of {count}; the bar is grace and 5 s", GRACE + 5),
            Row("deleted-gone-p50-s", round(quantile(gone, 0.5), 2), "s until the task is settled and its object gone"),
        ]

    def idle(self) -> list[Row]:
        """What a sandbox holds and uses while its program sleeps, beside a Job's pod."""
        with progress.step(f"{IDLE_SECONDS:.0f} s of an idle sandbox"):
            task, job = self._name("idle"), self._name("job")
            self._market.create(self._market.job(job, command=ENDLESS))
            self._running(task)
            (sandbox,) = self._pods("-A", "-l", "veilpod.dev/component=sandbox")
            (bare,) = self._pods("-n", JOBS, "-l", f"job-name={job}")
            if not waiting.until(lambda: all("running" in state for _, state in self._containers(job)), timeout=60, every=0.5):
                raise progress.Failure("the idle Job does not run")
            above = layout.Layout(self._market.cluster.name).cgroup
            statuses = {item["name"]: item["containerID"].rpartition("/")[2] for item in sandbox["status"]["initContainerStatuses"]}
            memory = {
                "agent": usage.memory_bytes(usage.cgroup(above, statuses["agent"], counting="memory")),
                "pod": usage.memory_bytes(usage.cgroup(above, f"pod{sandbox['metadata']['uid']}", counting="memory")),
                "job": usage.memory_bytes(usage.cgroup(above, f"pod{bare['metadata']['uid']}", counting="memory")),
            }
            agent = usage.cgroup(above, statuses["agent"])
            before, since = usage.cpu_seconds(agent), time.monotonic()
            waiting.pause(IDLE_SECONDS)
            millis = (usage.cpu_seconds(agent) - before) / (time.monotonic() - since) * 1e3
            self._market.delete(task)
            self._seen.wait(task, moments.GONE, timeout=120)
            self._market.cluster.kubectl("delete", "job", job, "-n", JOBS, "--wait=false")
        return [
            Row("agent-idle-mb", round(memory["agent"] / 1e6, 1), "MB, the agent's container while the program sleeps"),
            Row("agent-idle-cpu-millis", round(millis, 1), "thousandths of a processor"),
            Row("sandbox-idle-mb", round(memory["pod"] / 1e6, 1), "MB, the whole pod"),
            Row("job-idle-mb", round(memory["job"] / 1e6, 1), "MB, the same program's Job"),
        ]

    def stars(self, count: int) -> list[Row]:
        """Three servers, two channels, for reference."""
        published, settled, writes = [], [], []
        for number in range(1, count + 1):
            with progress.step(f"star {number} of {count}") as step:
                task = self._name("star")
                self._log.news()
                self._market.create(self._market.task(task, command=NOTHING, servers=3))
                self._seen.wait(task, "Settled", timeout=300)
                self._sound(task)
                mine, _ = audit.by_hand(self._log.news(), [party.name for party in WORK])
                writes.append(mine.total())
                published.append(self._seen.span(task, APPLIED, "KeyPublished"))
                settled.append(self._seen.span(task, APPLIED, "Settled"))
                step.note(f"key {published[-1]:.2f} s, settled {settled[-1]:.2f} s, {writes[-1]} writes")
        return [
            Row("star-key-published-s", round(statistics.median(published), 2), "s, three servers and two channels, median"),
            Row("star-settled-s", round(statistics.median(settled), 2), "s, median"),
            Row("star-api-writes", round(statistics.median(writes), 1), "writes of our operators, median"),
        ]

    def crowd(self, count: int) -> list[Row]:
        """Many tasks at once."""
        with progress.step(f"{count} tasks at once") as step:
            self._market.offer_cores()
            names = [self._name("crowd") for _ in range(count)]
            self._market.create(*(self._market.task(name, command=NOTHING) for name in names))
            since = time.monotonic()
            waiting.until(lambda: all(self._seen.has(name, "Settled") for name in names), timeout=1200, every=0.5)
            seconds = time.monotonic() - since
            good = [name for name in names if self._seen.has(name, "Settled") and not self._seen.has(name, "Failed")]
            codes = sorted({self._seen.failure(name) or "NotSettled" for name in names if name not in good})
            step.note(f"{len(good)} settled well in {seconds:.0f} s {' '.join(codes)}")
        published = [self._seen.span(name, APPLIED, "KeyPublished") for name in names if self._seen.has(name, "KeyPublished")]
        return [
            Row("crowd-settled", len(good), f"of {count} tasks applied at once settled well", count, "higher"),
            Row("crowd-settled-s", round(seconds, 1), f"s until the last was settled, on {os.cpu_count()} cores"),
            Row("crowd-key-published-p50-s", round(quantile(published, 0.5), 2), "s"),
            Row("crowd-key-published-p99-s", round(quantile(published, 0.99), 2), f"s, of {len(published)}"),
        ]

    def keys(self) -> list[Row]:
        """All waits for a key that were seen one at a time."""
        found = self._published
        return [
            Row("key-published-p50-s", round(quantile(found, 0.5), 2), "s from applied to KeyPublished, no waiting for blocks", 3),
            Row("key-published-p99-s", round(quantile(found, 0.99), 2), f"s, of {len(found)}", 10),
        ]

    def _running(self, task: str) -> None:
        self._market.create(self._market.task(task, command=ENDLESS))
        self._seen.wait(task, "InputsVerified", timeout=300)
        self._published.append(self._seen.span(task, APPLIED, "KeyPublished"))
        if not waiting.until(lambda: ("program", True) in self._programs(), timeout=60, every=0.2):
            raise progress.Failure(f"the program of {task} does not start")

    def _programs(self) -> set[tuple[str, bool]]:
        pods = self._pods("-A", "-l", "veilpod.dev/component=sandbox")
        statuses = [item for pod in pods for item in pod["status"].get("initContainerStatuses", ())]
        return {(item["name"], "running" in item["state"]) for item in statuses}

    def _containers(self, job: str) -> list[tuple[str, dict[str, Any]]]:
        pods = self._pods("-n", JOBS, "-l", f"job-name={job}")
        return [
            (item["name"], item["state"]) for pod in pods for item in pod["status"].get("containerStatuses", [{"name": "", "state": {}}])
        ]

    def _pods(self, *which: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._market.cluster.get("pods", *which)["items"]
        return found

    def _sound(self, task: str) -> None:
        if self._seen.has(task, "Failed"):
            raise progress.Failure(f"{task} failed: {self._seen.failure(task)}")

    @staticmethod
    def _name(kind: str) -> str:
        return f"{kind}-{next(_NAMES)}"


def main() -> int:
    """Build, measure, take down, print, write build/bench/sandbox.json."""
    parser = argparse.ArgumentParser(prog="bench.sandbox", description=__doc__)
    for name, usual in (("tasks", TASKS), ("deletions", DELETIONS), ("stars", STARS), ("crowd", CROWD)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    begin = time.monotonic()
    with clusters.fresh(f"bench-{os.getpid()}") as where:
        market = open_market(where)
        paths = [moments.TASKS.format(parties.REQUESTER.name), moments.JOBS.format(JOBS)]
        paths += [moments.ASSIGNMENTS.format(server.name) for server in parties.SERVERS]
        log = audit.AuditLog(layout.Layout(where.name).logs / layout.AUDIT_LOG)
        with moments.watched(where, *paths) as seen:
            bench = Bench(market, seen, log)
            parts: list[tuple[int, Callable[[], list[Row]]]] = [
                (options.tasks, lambda: bench.rounds(options.tasks)),
                (options.deletions, lambda: [*bench.deletions(options.deletions), *bench.idle()]),
                (options.stars, lambda: bench.stars(options.stars)),
                (options.crowd, lambda: bench.crowd(options.crowd)),
            ]
            progress.say("\nRounds")
            rows = [row for count, part in parts if count for row in part()]
            rows = bench.keys() + rows
    progress.say(f"\n{time.monotonic() - begin:.0f} s in all")
    write("sandbox", rows)
    return 0


if __name__ == "__main__":
    progress.run(main)
