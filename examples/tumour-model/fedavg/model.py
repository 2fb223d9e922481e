"""Logistic regression with an L2 penalty, in numpy: what a hospital fits alone, what both would fit together, what they fit federated.

A dataset is (X, y): X float64 (cases, features), y float64 (cases,) with 1 = malignant. Weights are (features + 1,), the bias first.
Features are
standardised with a mean and a deviation that everybody shares; `Moments` is how sites agree on them without showing a case.
"""

import csv
import dataclasses
import json
import pathlib

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
PENALTY = 1e-2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Count, sum and sum of squares of each feature: sums of moments are the moments of the union."""

    count: float
    total: Array
    squares: Array

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(count=self.count + other.count, total=self.total + other.total, squares=self.squares + other.squares)

    def scale(self) -> tuple[Array, Array]:
        """Mean and standard deviation of each feature."""
        mean = self.total / self.count
        return mean, np.sqrt(np.maximum(self.squares / self.count - mean**2, 1e-12))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A fitted model with the scale it was fitted in."""

    weights: Array
    mean: Array
    deviation: Array

    def accuracy(self, features: Array, labels: Array) -> float:
        """Share of cases told right."""
        predicted = design(features, self.mean, self.deviation) @ self.weights > 0
        return float(np.mean(predicted == (labels > 0.5)))

    def dump(self, **more: object) -> str:
        """Spell the model as JSON."""
        value = {"weights": self.weights.tolist(), "mean": self.mean.tolist(), "deviation": self.deviation.tolist(), **more}
        return json.dumps(value, indent=1)

    @classmethod
    def load(cls, text: str) -> "Model":
        """Read what `dump` wrote."""
        value = json.loads(text)
        return cls(weights=np.array(value["weights"]), mean=np.array(value["mean"]), deviation=np.array(value["deviation"]))


def read_cases(path: pathlib.Path) -> tuple[Array, Array]:
    """Read a CSV with a header whose last column is `malignant` (0 or 1)."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    if not rows or rows[0][-1] != "malignant":
        raise SystemExit(f"{path.name}: the last column must be 'malignant'")
    table = np.array(rows[1:], dtype=np.float64)
    return table[:, :-1], table[:, -1]


def moments(features: Array) -> Moments:
    """Sum up a site's features."""
    return Moments(count=float(len(features)), total=features.sum(axis=0), squares=(features**2).sum(axis=0))


def design(features: Array, mean: Array, deviation: Array) -> Array:
    """Standardise and put a column of ones first."""
    return np.hstack([np.ones((len(features), 1)), (features - mean) / deviation])


def descend(weights: Array, x: Array, y: Array, *, steps: int, rate: float = 0.5) -> Array:
    """Take full-batch gradient steps on the penalised log-loss (the bias is not penalised)."""
    for _ in range(steps):
        predicted = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        gradient = x.T @ (predicted - y) / len(y) + PENALTY * np.concatenate([[0.0], weights[1:]])
        weights = weights - rate * gradient
    return weights


def loss(weights: Array, x: Array, y: Array) -> float:
    """Mean log-loss, without the penalty."""
    margin = np.where(y > 0.5, 1.0, -1.0) * (x @ weights)
    return float(np.mean(np.logaddexp(0.0, -margin)))


def fit(features: Array, labels: Array, *, steps: int = 2000) -> Model:
    """Fit on one table: a hospital alone, or both pooled."""
    mean, deviation = moments(features).scale()
    x = design(features, mean, deviation)
    return Model(weights=descend(np.zeros(x.shape[1]), x, labels, steps=steps), mean=mean, deviation=deviation)
