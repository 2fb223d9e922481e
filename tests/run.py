"""`make test`: every check in the order in which a mistake is cheapest to find, with the time each took.

Each step writes its whole output to build/logs/<step>.log; the terminal shows a line per step and, for the step that fails, the end of
its log and what
to try next. `--quick` leaves out what needs a cluster.
"""

import argparse
import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import time

from localcluster import progress, toolchain

ROOT = pathlib.Path(__file__).resolve().parent.parent
LOGS = ROOT / "build" / "logs"
BIN = ".venv/bin"
SUMMARY = re.compile(r"(?:Ran \d+ test suites? .*: |=* ?(?:\d+ \w+, )*)(\d+) (?:tests )?passed\b")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One check: what runs, and whether it needs a cluster."""

    name: str
    command: tuple[str, ...]
    cluster: bool = False


STEPS = (
    Step(name="lint", command=(f"{BIN}/ruff", "check", ".")),
    Step(name="format", command=(f"{BIN}/ruff", "format", "--check", ".")),
    Step(name="types", command=(f"{BIN}/mypy",)),
    Step(name="imports", command=(f"{BIN}/lint-imports",)),
    Step(name="docs", command=(f"{BIN}/python", "docs/generate.py", "--check")),
    Step(name="contract tools", command=("npm", "ci", "--prefix", "contracts", "--no-audit", "--no-fund")),
    Step(name="contracts", command=("contracts/tools/test",)),
    Step(name="artifacts", command=("contracts/tools/build", "--check")),
    Step(name="contract checkers", command=("make", "checkers")),
    Step(name="slither", command=("contracts/tools/slither",)),
    Step(name="proofs", command=("contracts/tools/prove", "--quick")),
    Step(name="cluster build", command=(f"{BIN}/python", "-m", "localcluster", "build")),
    Step(name="units", command=(f"{BIN}/pytest", "tests/unit", "tests/contracts", "tests/localcluster")),
    Step(name="chain", command=(f"{BIN}/pytest", "tests/chain")),
    Step(name="chart", command=(f"{BIN}/pytest", "tests/chart")),
    Step(name="end to end", command=(f"{BIN}/pytest", "-m", "e2e", "--durations=25", "tests/e2e"), cluster=True),
)


def main() -> int:
    """Run the steps; stop at the first that fails."""
    parser = argparse.ArgumentParser(prog="make test", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="leave out what needs a cluster")
    quick = parser.parse_args().quick
    begin = time.monotonic()
    passed = 0
    toolchain.ensure_packages({**toolchain.TO_BUILD, "procps": "pkill", "tcpdump": "tcpdump"})
    environment = os.environ | {"PATH": os.pathsep.join([str(toolchain.node().parent), toolchain.PATH])}
    for step in STEPS:
        if step.cluster and quick:
            continue
        log = LOGS / f"{step.name.replace(' ', '-')}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with progress.step(step.name) as shown:
            with log.open("wb") as output:
                result = subprocess.run(
                    step.command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
                )
            runs = _passed(log)
            shown.note(f"{sum(runs)} passed{f' in {len(runs)} runs' if len(runs) > 1 else ''}" if runs else "")
            if result.returncode != 0:
                again = " ".join(step.command)
                raise progress.Failure(f"{step.name} failed", log=log, next=f"{again}   (all output: {log.relative_to(ROOT)})")
            passed += sum(runs)
    print(f"\nall steps passed in {time.monotonic() - begin:.0f} s")
    print(f"{passed} passed, 0 failed")
    return 0


def _passed(log: pathlib.Path) -> list[int]:
    """Return how many tests passed in each run of a test runner that a log shows."""
    return [int(found[1]) for line in log.read_text(errors="replace").splitlines() if (found := SUMMARY.match(line))]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except progress.Failure as failure:
        progress.complain(failure)
        sys.exit(1)
