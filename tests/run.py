"""`make test`: every check in the order in which a mistake is cheapest to find, with the time each took.

The end-to-end tests wait more than they compute: they run on two clusters at once, beside the steps that follow them in the list and
give way to them.
Each step writes its whole output to build/logs/<step>.log; the terminal shows a line per step and, for the step that fails, the end of
its log and what to try next. `--quick` leaves out what needs a cluster.
"""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from localcluster import layout, lifecycle, progress, toolchain

ROOT = pathlib.Path(__file__).resolve().parent.parent
LOGS = ROOT / "build" / "logs"
BIN = ".venv/bin"
SUMMARY = re.compile(r"(?:Ran \d+ test suites? .*: |=* ?(?:\d+ \w+, )*)(\d+) (?:tests )?passed\b")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One check: what runs, whether it needs a cluster (such a step goes on beside the ones after it), and else how far it gives way."""

    name: str
    command: tuple[str, ...]
    cluster: bool = False
    nice: int = 15

    @property
    def log(self) -> pathlib.Path:
        return LOGS / f"{self.name.replace(' ', '-')}.log"


# A test that waits for an answer must get some time while it waits, so those give way less than what only computes.
_WAITING = 5

STEPS = (
    Step(name="lint", command=(f"{BIN}/ruff", "check", ".")),
    Step(name="format", command=(f"{BIN}/ruff", "format", "--check", ".")),
    Step(name="imports", command=(f"{BIN}/lint-imports",)),
    Step(name="docs", command=(f"{BIN}/python", "docs/generate.py", "--check")),
    Step(name="contract tools", command=("npm", "ci", "--prefix", "contracts", "--no-audit", "--no-fund")),
    Step(name="cluster build", command=(f"{BIN}/python", "-m", "localcluster", "build")),
    Step(
        name="end to end",
        command=(
            *(f"{BIN}/pytest", "-m", "e2e", "--durations=25"),
            *("--numprocesses=2", "--dist=loadfile", "--no-loadscope-reorder", "tests/e2e"),
        ),
        cluster=True,
    ),
    Step(name="types", command=(f"{BIN}/mypy",)),
    Step(name="contracts", command=("contracts/tools/test",)),
    Step(name="artifacts", command=("contracts/tools/build", "--check")),
    Step(name="contract checkers", command=("make", "checkers")),
    Step(name="slither", command=("contracts/tools/slither",)),
    Step(name="proofs", command=("contracts/tools/prove", "--quick")),
    Step(name="units", command=(f"{BIN}/pytest", "--numprocesses=2", "tests/unit", "tests/contracts", "tests/localcluster"), nice=_WAITING),
    Step(name="fuzzing", command=(f"{BIN}/python", "-m", "tests.fuzz", "--seconds=5")),
    Step(name="chain", command=(f"{BIN}/pytest", "--numprocesses=2", "tests/chain"), nice=_WAITING),
    Step(name="chart", command=(f"{BIN}/pytest", "tests/chart"), nice=_WAITING),
)


def main() -> int:
    """Run the steps; stop at the first that fails."""
    parser = argparse.ArgumentParser(prog="make test", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="leave out what needs a cluster")
    quick = parser.parse_args().quick
    begin = time.monotonic()
    passed = 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that clusters are taken down then, too
    packages = toolchain.TO_BUILD | ({} if quick else toolchain.TO_RUN | toolchain.TO_MAKE_IMAGES)
    toolchain.ensure_packages(packages | {"procps": "pkill", "tcpdump": "tcpdump"})
    LOGS.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        beside = []
        for step in STEPS:
            if not step.cluster:
                with progress.step(step.name) as shown:
                    passed += _finish(step, stack.enter_context(_running(step)), shown)
            elif not quick:
                progress.say(f"  {step.name:<44}  begins, beside what follows: {step.log.relative_to(ROOT)}")
                beside.append((step, time.monotonic(), stack.enter_context(_running(step))))
        for step, since, process in beside:
            with progress.step(step.name, since=since) as shown:
                passed += _finish(step, process, shown)
    print(f"\nall steps passed in {time.monotonic() - begin:.0f} s")
    print(f"{passed} passed, 0 failed")
    return 0


@contextlib.contextmanager
def _running(step: Step) -> "Iterator[subprocess.Popen[bytes]]":
    """Start a step; who leaves before its end ends it, and the clusters that it had."""
    environment = os.environ | {
        "PATH": os.pathsep.join([str(toolchain.node().parent), toolchain.PATH]),
        "MYPY_CACHE_DIR": str(layout.cache_directory() / "mypy"),
    }
    with step.log.open("wb") as output:
        process = subprocess.Popen(
            step.command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    if not step.cluster:
        _give_way(process.pid, step.nice)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # an interrupted pytest-xdist goes on with its tests
            process.wait()
            for name in lifecycle.names():
                if name.startswith(f"test-{process.pid}-"):
                    lifecycle.down(name)
                    shutil.rmtree(layout.BUILD / name, ignore_errors=True)


def _give_way(session: int, nice: int) -> None:
    """Let a step compute while those with a cluster wait: theirs is the longest way, and this one has time."""
    with contextlib.suppress(OSError):  # a kernel without autogroups (sched(7)) has nothing to tell
        pathlib.Path(f"/proc/{session}/autogroup").write_text(str(nice))


def _finish(step: Step, process: "subprocess.Popen[bytes]", shown: progress.Step) -> int:
    """Wait for a step. Returns how many tests passed."""
    process.wait()
    runs = _passed(step.log)
    shown.note(f"{sum(runs)} passed{f' in {len(runs)} runs' if len(runs) > 1 else ''}" if runs else "")
    if process.returncode != 0:
        again = " ".join(step.command)
        raise progress.Failure(f"{step.name} failed", log=step.log, next=f"{again}   (all output: {step.log.relative_to(ROOT)})")
    return sum(runs)


def _passed(log: pathlib.Path) -> list[int]:
    """Return how many tests passed in each run of a test runner that a log shows."""
    return [int(found[1]) for line in log.read_text(errors="replace").splitlines() if (found := SUMMARY.match(line))]


if __name__ == "__main__":
    progress.run(main)
