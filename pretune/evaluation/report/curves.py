"""The tables behind the plots: one source for DVC, MLflow and the report."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pretune.evaluation.metrics.classification import BINS, confidence_bins
from pretune.objectives.predictions import Classes, ManyLabels, Numbers, Predictions

Point = dict[str, float | int | str]
# All that dvc.yaml plots. A table that a form of predictions lacks is written empty: DVC complains of missing files.
TABLES = ("confusion", "reliability", "roc", "precision_recall", "scatter", "label_efficiency")
POINTS = 200  # of a curve
CURVES = 8  # classes with a curve: the most frequent ones


def tables(predictions: Predictions) -> dict[str, list[Point]]:
    """{name: rows} of each plot that this form of predictions has."""
    match predictions:
        case Classes():
            true = np.eye(len(predictions.names), dtype=bool)[predictions.targets]
            return {
                "confusion": list(_confusion(predictions)),
                "reliability": list(_reliability(predictions)),
                **_class_curves(predictions.names, true, predictions.probabilities),
            }
        case ManyLabels():
            return _class_curves(predictions.names, predictions.targets, predictions.probabilities)
        case Numbers():
            pairs = zip(predictions.targets.ravel(), predictions.predicted.ravel(), strict=True)
            return {"scatter": [{"target": float(true), "predicted": float(predicted)} for true, predicted in pairs]}
        case _:
            return {}


def _confusion(predictions: Classes) -> Iterator[Point]:
    for target, predicted in zip(predictions.targets, predictions.probabilities.argmax(axis=1), strict=True):
        yield {"label": predictions.names[target], "predicted": predictions.names[predicted]}


def _reliability(predictions: Classes) -> Iterator[Point]:
    """Mean confidence and accuracy of the rows in each bin of confidence."""
    confidence = predictions.probabilities.max(axis=1).astype(np.float64)
    correct = predictions.probabilities.argmax(axis=1) == predictions.targets
    bins = confidence_bins(confidence)
    for number in range(BINS):
        if (rows := bins == number).any():
            mean, accuracy = float(confidence[rows].mean()), float(correct[rows].mean())
            yield {"confidence": round(mean, 4), "accuracy": round(accuracy, 4), "rows": int(rows.sum())}


def _class_curves(
    names: list[str], true: npt.NDArray[np.bool_], scores: npt.NDArray[np.float32]
) -> dict[str, list[Point]]:
    """ROC and precision-recall curves of each class against the rest; of two classes, of the second only.

    true: (rows, classes); scores: (rows, classes).
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    roc: list[Point] = []
    precision_recall: list[Point] = []
    classes = [1] if len(names) == 2 else np.argsort(-true.sum(axis=0), kind="stable")[:CURVES]
    for column in classes:
        if 0 < true[:, column].sum() < len(true):
            x, y, _ = roc_curve(true[:, column], scores[:, column])
            roc += _points(names[column], x, y, "false_positives", "true_positives")
            y, x, _ = precision_recall_curve(true[:, column], scores[:, column])
            precision_recall += _points(names[column], x[::-1], y[::-1], "recall", "precision")
    return {"roc": roc, "precision_recall": precision_recall}


def _points(
    label: str, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], x_name: str, y_name: str
) -> Iterator[Point]:
    """At most POINTS points of a curve, evenly spaced, with both ends."""
    for place in np.unique(np.linspace(0, len(x) - 1, POINTS).round().astype(int)):
        yield {"label": label, x_name: round(float(x[place]), 4), y_name: round(float(y[place]), 4)}
