"""Metrics of classification: one class or any number of labels for each row."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import numpy.typing as npt

from pretune.evaluation.metrics import statistics
from pretune.evaluation.metrics.bootstrap import Measure, Metric, Values
from pretune.evaluation.metrics.statistics import Table
from pretune.objectives.predictions import Classes, ManyLabels

Flags = npt.NDArray[np.bool_]  # (rows,) or (rows, classes)
Column = npt.NDArray[np.float64]  # (rows,)
BINS = 15  # of equal width, for the calibration error (Guo et al. 2017)
THRESHOLD = 0.5  # probability from which a label is predicted
SMALLEST = float(np.finfo(np.float32).eps)  # probability in a logarithm


def classes(predictions: Classes) -> dict[str, Metric]:
    """Metrics of one class for each row; of two classes the second is the positive one."""
    number = len(predictions.names)
    probabilities = predictions.probabilities.astype(np.float64)
    best = probabilities.argmax(axis=1)
    correct = best == predictions.targets
    true = np.eye(number, dtype=bool)[predictions.targets]
    predicted = np.eye(number, dtype=bool)[best]
    of_target = probabilities[np.arange(len(best)), predictions.targets]
    squared = ((probabilities - true) ** 2).sum(axis=1) / (2 if number == 2 else 1)
    columns = [1] if number == 2 else list(range(number))
    return {
        "accuracy": Metric(statistics.mean(correct)),
        "macro_f1": Metric(f_measure(true, predicted, "f1", "macro")),
        "weighted_f1": Metric(f_measure(true, predicted, "f1", "weighted")),
        "macro_precision": Metric(f_measure(true, predicted, "precision", "macro")),
        "macro_recall": Metric(f_measure(true, predicted, "recall", "macro")),
        "mcc": Metric(matthews_correlation(true, predicted)),
        "roc_auc": _over_classes(statistics.roc_auc, true, probabilities, columns),
        "pr_auc": _over_classes(statistics.average_precision, true, probabilities, columns),
        "log_loss": Metric(statistics.mean(-np.log(np.clip(of_target, SMALLEST, 1.0))), higher=False),
        "brier": Metric(statistics.mean(squared), higher=False),
        "calibration_error": Metric(calibration_error(correct, probabilities.max(axis=1)), higher=False),
    }


def many_labels(predictions: ManyLabels) -> dict[str, Metric]:
    """Metrics of any number of labels for each row."""
    probabilities = predictions.probabilities.astype(np.float64)
    true, predicted = predictions.targets, probabilities >= THRESHOLD
    columns = range(len(predictions.names))
    clipped = np.clip(probabilities, SMALLEST, 1 - SMALLEST)
    entropy = -np.where(true, np.log(clipped), np.log1p(-clipped)).mean(axis=1)
    return {
        "micro_f1": Metric(f_measure(true, predicted, "f1", "micro")),
        "macro_f1": Metric(f_measure(true, predicted, "f1", "macro")),
        "exact_match": Metric(statistics.mean((true == predicted).all(axis=1))),
        "hamming_loss": Metric(statistics.mean((true != predicted).mean(axis=1)), higher=False),
        "roc_auc": _over_classes(statistics.roc_auc, true, probabilities, columns),
        "pr_auc": _over_classes(statistics.average_precision, true, probabilities, columns),
        "log_loss": Metric(statistics.mean(entropy), higher=False),
        "brier": Metric(statistics.mean(((probabilities - true) ** 2).mean(axis=1)), higher=False),
    }


def _over_classes(
    area: Callable[[Flags, Column], Measure], true: Flags, probabilities: Table, columns: Iterable[int]
) -> Metric:
    """The mean of the area under a curve over classes, each against the rest."""
    return Metric(statistics.average([area(true[:, i], probabilities[:, i]) for i in columns]))


def f_measure(true: Flags, predicted: Flags, score: str, average: str) -> Measure:
    """Precision, recall or F1 of (rows, classes): see f_score."""
    counts = np.concatenate([true & predicted, true, predicted], axis=1)
    return statistics.of_sums(counts, partial(f_score, score=score, average=average))


def f_score(counts: Table, *, score: str, average: str) -> Values:
    """Precision, recall or F1, averaged as scikit-learn does.

    counts: (draws, 3 x classes), for each class the true positives, the true rows and the predicted rows. Classes that
    are neither true nor predicted in any row do not count; otherwise zero by zero is 0.
    """
    hits, true, predicted = np.split(counts, 3, axis=1)
    if average == "micro":
        hits, true, predicted = (part.sum(axis=1, keepdims=True) for part in (hits, true, predicted))
    denominator = {"f1": (true + predicted) / 2, "precision": predicted, "recall": true}[score]
    scores = np.where(denominator > 0, hits / denominator, 0.0)
    shares = true if average == "weighted" else ((true + predicted) > 0).astype(np.float64)
    return np.asarray((scores * shares).sum(axis=1) / np.maximum(shares.sum(axis=1), 1e-12))


def matthews_correlation(true: Flags, predicted: Flags) -> Measure:
    """Matthews' correlation for any number of classes (Gorodkin 2004); 0 where it is not defined."""
    number = true.shape[1]

    def correlation(counts: Table) -> Values:
        of_true, of_predicted, hits = counts[:, :number], counts[:, number : 2 * number], counts[:, -1]
        rows = of_true.sum(axis=1)
        numerator = hits * rows - (of_true * of_predicted).sum(axis=1)
        squares = [rows**2 - (part**2).sum(axis=1) for part in (of_true, of_predicted)]
        denominator = np.sqrt(squares[0] * squares[1])
        return np.asarray(np.where(denominator > 0, numerator / denominator, 0.0))

    hits = (true & predicted).any(axis=1, keepdims=True)
    return statistics.of_sums(np.concatenate([true, predicted, hits], axis=1), correlation)


def calibration_error(correct: Flags, confidence: Column) -> Measure:
    """Expected calibration error: the distance between confidence and accuracy, by bins of confidence."""
    excess = np.eye(BINS)[confidence_bins(confidence)] * (correct - confidence)[:, None]
    table = np.column_stack([excess, np.ones(len(correct))])
    return statistics.of_sums(table, lambda sums: np.abs(sums[:, :-1]).sum(axis=1) / sums[:, -1])


def confidence_bins(confidence: Column) -> npt.NDArray[np.int64]:
    """The bin of each confidence: bin n holds those above n / BINS and up to (n + 1) / BINS."""
    return np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
