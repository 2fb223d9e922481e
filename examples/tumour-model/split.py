"""Cut the Wisconsin diagnostic breast cancer data (569 cases, 30 features) into two hospitals with different case mixes and a held-out set.

The table ships inside scikit-learn's wheel: the wheel is read as an archive, nothing of it is installed. North is a referral clinic
(most of the malignant
cases), south a screening centre (most of the benign ones), so each alone has a crooked picture. Deterministic.
"""

import argparse
import csv
import hashlib
import pathlib
import random
import subprocess
import sys
import tempfile
import zipfile

MEMBER = "sklearn/datasets/data/breast_cancer.csv"
SHA256 = "fed3eb72d0575ef6192293f5093c6e801b1476b577d0386bf4455504522172ed"
SEED = 569


def main() -> None:
    """Write north.csv, south.csv and heldout.csv into the folder given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    header, cases = parse(table())
    for name, rows in split(cases).items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([header, *rows])
        malignant = sum(row[-1] == "1" for row in rows)
        print(f"{name}: {len(rows)} cases, {malignant} malignant")


def table() -> str:
    """Take the CSV out of the wheel. Raises SystemExit when it is not the table that the example was written for."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
            "-d",
            folder,
            "scikit-learn==1.7.2",
        ]
        subprocess.run(command, check=True)  # noqa: S603 - our own arguments
        with zipfile.ZipFile(next(pathlib.Path(folder).glob("*.whl"))) as wheel:
            data = wheel.read(MEMBER)
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise SystemExit(f"{MEMBER} has changed: digest {hashlib.sha256(data).hexdigest()}")
    return data.decode()


def parse(text: str) -> tuple[list[str], list[list[str]]]:
    """Read scikit-learn's table (target 0 = malignant) into rows whose last column says 1 for malignant."""
    rows = list(csv.reader(text.splitlines()))
    width = int(rows[0][1])
    cases = [[*row[:width], "1" if row[width] == "0" else "0"] for row in rows[1:]]
    return [*(f"f{i:02d}" for i in range(width)), "malignant"], cases


def split(cases: list[list[str]]) -> dict[str, list[list[str]]]:
    """Hold out a quarter of each kind; of the rest, north gets most malignant and south most benign cases."""
    shuffle = random.Random(SEED)  # noqa: S311 - a reproducible split, not a secret
    parts: dict[str, list[list[str]]] = {"north": [], "south": [], "heldout": []}
    for kind, share_north in (("1", 0.85), ("0", 0.12)):
        some = [case for case in cases if case[-1] == kind]
        shuffle.shuffle(some)
        held = len(some) // 4
        north = held + round((len(some) - held) * share_north)
        parts["heldout"] += some[:held]
        parts["north"] += some[held:north]
        parts["south"] += some[north:]
    for rows in parts.values():
        shuffle.shuffle(rows)
    return parts


if __name__ == "__main__":
    main()
