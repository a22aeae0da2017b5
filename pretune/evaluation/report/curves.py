"""Tables behind the plots: one source for DVC, MLflow and the report."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pretune.evaluation.metrics.classification import BINS, bins
from pretune.objectives.predictions import Classes, ManyLabels, Numbers, Predictions

Point = dict[str, float | int | str]
# All that dvc.yaml draws. Those that a form has not are written too, empty: DVC complains of a file that is missing.
TABLES = ("confusion", "reliability", "roc", "precision_recall", "scatter", "label_efficiency")
POINTS = 200  # of a curve
CURVES = 8  # classes that have one: the commonest


def tables(found: Predictions) -> dict[str, list[Point]]:
    """{name: rows} of each plot that this form has."""
    match found:
        case Classes():
            return {
                "confusion": list(_confusion(found)),
                "reliability": list(_reliability(found)),
                **_ranked(found.names, np.eye(len(found.names), dtype=bool)[found.targets], found.probabilities),
            }
        case ManyLabels():
            return _ranked(found.names, found.targets, found.probabilities)
        case Numbers():
            pairs = zip(found.targets.ravel(), found.predicted.ravel(), strict=True)
            return {"scatter": [{"target": float(a), "predicted": float(b)} for a, b in pairs]}
        case _:
            return {}


def _confusion(found: Classes) -> Iterator[Point]:
    for target, predicted in zip(found.targets, found.probabilities.argmax(axis=1), strict=True):
        yield {"label": found.names[target], "predicted": found.names[predicted]}


def _reliability(found: Classes) -> Iterator[Point]:
    """Mean confidence and accuracy of the rows in each bin of confidence."""
    confidence = found.probabilities.max(axis=1).astype(np.float64)
    right, place = found.probabilities.argmax(axis=1) == found.targets, bins(confidence)
    for each in range(BINS):
        if (rows := place == each).any():
            mean, share = float(confidence[rows].mean()), float(right[rows].mean())
            yield {"confidence": round(mean, 4), "accuracy": round(share, 4), "rows": int(rows.sum())}


def _ranked(names: list[str], right: npt.NDArray[np.bool_], scores: npt.NDArray[np.float32]) -> dict[str, list[Point]]:
    """ROC and precision-recall curves, each class against the rest; of two classes, the second only."""
    from sklearn.metrics import precision_recall_curve, roc_curve

    roc: list[Point] = []
    precision: list[Point] = []
    order = [1] if len(names) == 2 else np.argsort(-right.sum(axis=0), kind="stable")[:CURVES]
    for place in order:
        if 0 < right[:, place].sum() < len(right):
            x, y, _ = roc_curve(right[:, place], scores[:, place])
            roc += _points(names[place], x, y, "false_positives", "true_positives")
            y, x, _ = precision_recall_curve(right[:, place], scores[:, place])
            precision += _points(names[place], x[::-1], y[::-1], "recall", "precision")
    return {"roc": roc, "precision_recall": precision}


def _points(name: str, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], of_x: str, of_y: str) -> Iterator[Point]:
    kept = np.unique(np.linspace(0, len(x) - 1, POINTS).round().astype(int))
    for each in kept:
        yield {"label": name, of_x: round(float(x[each]), 4), of_y: round(float(y[each]), 4)}
