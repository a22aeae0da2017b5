"""Accuracy and F1 with bootstrap intervals; models are compared on the same rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import f1_score

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Estimate:
    """A value with the interval that the bootstrap gives it."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """Rounded to what the interval can carry."""
        return {key: round(number, 4) for key, number in asdict(self).items()}


class Bootstrap:
    """Percentile intervals (Efron 1979) from the same resampled rows for every model.

    Sharing the draws makes the difference of two models a paired comparison.
    """

    def __init__(self, rows: int, resamples: int, confidence: float, seed: int) -> None:
        self.draws = np.random.default_rng([seed, 3]).integers(0, rows, (resamples, rows), dtype=np.int32)
        self.tails = [(1 - confidence) / 2, (1 + confidence) / 2]

    def mean(self, values: npt.NDArray[np.float64]) -> Estimate:
        """The mean of one value per row: (rows,)."""
        means = [values[draw].mean() for draw in self.draws]
        low, high = np.quantile(means, self.tails)
        return Estimate(float(values.mean()), float(low), float(high))


def score(targets: Labels, predicted: Labels, bootstrap: Bootstrap) -> dict[str, object]:
    """Accuracy with its interval, and macro F1, of one model."""
    return {
        "accuracy": bootstrap.mean((targets == predicted).astype(np.float64)).as_dict(),
        "macro_f1": round(float(f1_score(targets, predicted, average="macro", zero_division=0)), 4),
    }


def gain(targets: Labels, better: Labels, worse: Labels, bootstrap: Bootstrap) -> dict[str, float]:
    """Accuracy of `better` less that of `worse` on the same rows, with a paired interval."""
    difference = (targets == better).astype(np.float64) - (targets == worse).astype(np.float64)
    return bootstrap.mean(difference).as_dict()


def majority(train: Labels, rows: int) -> Labels:
    """The baseline that always answers with the commonest training label: (rows,)."""
    return np.full(rows, np.bincount(train).argmax(), dtype=np.int64)
