"""Compare on the held-out cases: each hospital alone, both pooled, and the federated model.

Prints JSON; says so when the split does not show the point.
"""

import json
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from fedavg import model


def main(data: pathlib.Path, federated: pathlib.Path) -> None:
    """Read the tables and the model; print accuracies and the verdict."""
    held_out = model.read_cases(data / "heldout.csv")
    hospitals = {name: model.read_cases(data / f"{name}.csv") for name in ("north", "south")}
    pooled = np.vstack([x for x, _ in hospitals.values()]), np.concatenate([y for _, y in hospitals.values()])

    alone = {name: model.fit(*cases).accuracy(*held_out) for name, cases in hospitals.items()}
    together = model.fit(*pooled).accuracy(*held_out)
    trained = model.Model.load(federated.read_text()).accuracy(*held_out)

    close = trained >= together - 0.01
    better = trained > min(alone.values())
    if close and better:
        verdict = "the federated model is within one percentage point of pooled data and beats the worse hospital alone"
    else:
        missing = [
            text
            for held, text in (
                (close, "is not within one percentage point of pooled data"),
                (better, "does not beat the worse hospital alone"),
            )
            if not held
        ]
        verdict = "this split does not show it: the federated model " + " and ".join(missing)
    print(
        json.dumps(
            {
                "heldOutCases": len(held_out[1]),
                "alone": {name: round(value, 4) for name, value in alone.items()},
                "pooled": round(together, 4),
                "federated": round(trained, 4),
                "withinOnePointOfPooled": close,
                "beatsWorseHospital": better,
                "verdict": verdict,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
