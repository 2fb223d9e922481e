"""What a bench says: a table for who waits for it, and build/bench/NAME.json for who compares.

A bar is a promise: a value that misses it is reported as missed, never hidden, and never makes the bench fail, because a bench
measures and a test decides.
"""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
from collections.abc import Sequence
from typing import Literal

ROOT = pathlib.Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One measurement. `bar` is the value to reach, in the same unit; `better` says on which side of it good values are."""

    name: str
    value: float
    unit: str
    bar: float | None = None
    better: Literal["lower", "higher"] = "lower"

    @property
    def missed(self) -> bool:
        """Whether there is a bar and the value is on its wrong side."""
        if self.bar is None:
            return False
        return self.value > self.bar if self.better == "lower" else self.value < self.bar


def write(name: str, rows: Sequence[Row]) -> None:
    """Print the rows as a table and write build/bench/NAME.json with the commit and the machine they were measured on."""
    print(f"{'':28}{'measured':>14}{'bar':>14}")
    for row in rows:
        bar = "-" if row.bar is None else f"{row.bar:,}"
        print(f"{row.name:28}{row.value:>14,}{bar:>14}  {row.unit}{'  MISSES THE BAR' if row.missed else ''}")
    missed = sum(row.missed for row in rows)
    print(f"{missed} of {sum(row.bar is not None for row in rows)} bars missed")

    file = ROOT / "build" / "bench" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    document = {"commit": commit(), "machine": machine(), "rows": [dataclasses.asdict(row) for row in rows]}
    file.write_text(json.dumps(document, indent=2) + "\n", "utf-8")


def commit() -> str:
    """Name what was measured; `-dirty` when the tree is not what the commit says."""
    described = subprocess.run(
        ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return described.stdout.strip() or "unknown"


def machine() -> str:
    try:
        model = re.search(r"^model name\s*:\s*(.+)$", pathlib.Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
    except OSError:
        model = None
    return f"{model[1] if model else 'unknown processor'}, {os.cpu_count()} cores"
