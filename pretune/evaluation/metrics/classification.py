"""Metrics of classes: one for each row, or any number."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt

from pretune.evaluation.metrics import statistics
from pretune.evaluation.metrics.bootstrap import Measure, Metric, Values
from pretune.evaluation.metrics.statistics import Table
from pretune.objectives.predictions import Classes, ManyLabels

BINS = 15  # of equal width, for the calibration error (Guo et al. 2017)
THRESHOLD = 0.5  # from which on a label is given
SMALLEST = float(np.finfo(np.float32).eps)  # of a probability whose logarithm is taken


def classes(found: Classes) -> dict[str, Metric]:
    """Metrics of one class for each row; of two classes the second is the positive one."""
    number = len(found.names)
    probabilities = found.probabilities.astype(np.float64)
    chosen = probabilities.argmax(axis=1)
    right = np.eye(number, dtype=bool)[found.targets]
    given = np.eye(number, dtype=bool)[chosen]
    of_target = probabilities[np.arange(len(chosen)), found.targets]
    squared = ((probabilities - right) ** 2).sum(axis=1) / (2 if number == 2 else 1)
    asked = [1] if number == 2 else list(range(number))
    return {
        "accuracy": Metric(statistics.mean(chosen == found.targets)),
        "macro_f1": Metric(counts(right, given, "f1", "macro")),
        "weighted_f1": Metric(counts(right, given, "f1", "weighted")),
        "macro_precision": Metric(counts(right, given, "precision", "macro")),
        "macro_recall": Metric(counts(right, given, "recall", "macro")),
        "mcc": Metric(matthews(right, given)),
        "roc_auc": Metric(statistics.average([statistics.roc_auc(right[:, i], probabilities[:, i]) for i in asked])),
        "pr_auc": Metric(
            statistics.average([statistics.average_precision(right[:, i], probabilities[:, i]) for i in asked])
        ),
        "log_loss": Metric(statistics.mean(-np.log(np.clip(of_target, SMALLEST, 1.0))), higher=False),
        "brier": Metric(statistics.mean(squared), higher=False),
        "calibration_error": Metric(calibration(chosen == found.targets, probabilities.max(axis=1)), higher=False),
    }


def many_labels(found: ManyLabels) -> dict[str, Metric]:
    """Metrics of any number of classes for each row."""
    probabilities = found.probabilities.astype(np.float64)
    right, given = found.targets, probabilities >= THRESHOLD
    columns = range(len(found.names))
    clipped = np.clip(probabilities, SMALLEST, 1 - SMALLEST)
    entropy = -np.where(right, np.log(clipped), np.log1p(-clipped)).mean(axis=1)
    return {
        "micro_f1": Metric(counts(right, given, "f1", "micro")),
        "macro_f1": Metric(counts(right, given, "f1", "macro")),
        "exact_match": Metric(statistics.mean((right == given).all(axis=1))),
        "hamming_loss": Metric(statistics.mean((right != given).mean(axis=1)), higher=False),
        "roc_auc": Metric(statistics.average([statistics.roc_auc(right[:, i], probabilities[:, i]) for i in columns])),
        "pr_auc": Metric(
            statistics.average([statistics.average_precision(right[:, i], probabilities[:, i]) for i in columns])
        ),
        "log_loss": Metric(statistics.mean(entropy), higher=False),
        "brier": Metric(statistics.mean(((probabilities - right) ** 2).mean(axis=1)), higher=False),
    }


def counts(right: npt.NDArray[np.bool_], given: npt.NDArray[np.bool_], which: str, average: str) -> Measure:
    """Precision, recall or F1 of (rows, classes): see from_counts."""
    table = np.concatenate([right & given, right, given], axis=1)
    return statistics.of_sums(table, partial(from_counts, which=which, average=average))


def from_counts(table: Table, *, which: str, average: str) -> Values:
    """Precision, recall or F1 of (draws, 3 x classes): hits, those wanted, those given; averaged as scikit-learn does.

    Nothing over nothing is 0; classes that are neither wanted nor given anywhere do not count.
    """
    true, wanted, said = np.split(table, 3, axis=1)
    if average == "micro":
        true, wanted, said = (part.sum(axis=1, keepdims=True) for part in (true, wanted, said))
    below = {"f1": (wanted + said) / 2, "precision": said, "recall": wanted}[which]
    scores = np.where(below > 0, true / below, 0.0)
    shares = wanted if average == "weighted" else ((wanted + said) > 0).astype(np.float64)
    return np.asarray((scores * shares).sum(axis=1) / np.maximum(shares.sum(axis=1), 1e-12))


def matthews(right: npt.NDArray[np.bool_], given: npt.NDArray[np.bool_]) -> Measure:
    """Matthews' correlation for any number of classes (Gorodkin 2004); 0 where it is not defined."""
    number = right.shape[1]

    def function(table: Table) -> Values:
        wanted, said, true = table[:, :number], table[:, number : 2 * number], table[:, -1]
        rows = wanted.sum(axis=1)
        above = true * rows - (wanted * said).sum(axis=1)
        squares = [rows**2 - (part**2).sum(axis=1) for part in (wanted, said)]
        below = np.sqrt(squares[0] * squares[1])
        return np.asarray(np.where(below > 0, above / below, 0.0))

    hits = (right & given).any(axis=1, keepdims=True)
    return statistics.of_sums(np.concatenate([right, given, hits], axis=1), function)


def calibration(right: npt.NDArray[np.bool_], confidence: npt.NDArray[np.float64]) -> Measure:
    """Expected calibration error: how far confidence is from accuracy, by bins of confidence."""
    place = bins(confidence)
    excess = np.eye(BINS)[place] * (right - confidence)[:, None]
    table = np.column_stack([excess, np.ones(len(right))])
    return statistics.of_sums(table, lambda found: np.abs(found[:, :-1]).sum(axis=1) / found[:, -1])


def bins(confidence: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The bin of each confidence: the n-th holds those above n / BINS, up to and with (n + 1) / BINS."""
    return np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
