"""How a benchmark tells its results: a table for people, build/bench/NAME.json for machines. A missed bar is shown, never hidden."""

import dataclasses
import json
import os
import pathlib
import subprocess
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured figure. `better` says which way is good, "lower" or "higher"; `bar` is what it must reach."""

    name: str
    value: float
    unit: str
    bar: float | None = None
    better: str = "lower"

    @property
    def missed(self) -> bool:
        """Whether there is a bar and this is worse."""
        if self.bar is None:
            return False
        return self.value > self.bar if self.better == "lower" else self.value < self.bar


def write(name: str, rows: Sequence[Row]) -> None:
    """Print the table and write the file."""
    width = max(len(row.name) for row in rows)
    for row in rows:
        bar = "" if row.bar is None else f"  bar {row.bar:>14,.6g}  {'MISSED' if row.missed else 'met'}"
        print(f"{row.name:<{width}}  {row.value:>14,.6g} {row.unit:<10}{bar}")
    document = {"commit": _commit(), "machine": _machine(), "rows": [dataclasses.asdict(row) for row in rows]}
    path = ROOT / "build" / "bench" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _machine() -> str:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown processor")
    return f"{model}, {os.cpu_count()} cores"
