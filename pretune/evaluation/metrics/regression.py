"""Metrics of regression, and of likelihoods of texts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pretune.evaluation.metrics import statistics
from pretune.evaluation.metrics.bootstrap import Measure, Metric, Values, Weights
from pretune.evaluation.metrics.statistics import Table
from pretune.objectives.predictions import Likelihoods, Numbers

Column = npt.NDArray[np.float64]


def numbers(predictions: Numbers) -> dict[str, Metric]:
    """Errors over all numbers; R squared and correlations are averaged over columns."""
    targets, predicted = predictions.targets.astype(np.float64), predictions.predicted.astype(np.float64)
    error, columns = predicted - targets, range(targets.shape[1])
    squared = (error**2).mean(axis=1)
    root = statistics.of_sums(np.column_stack([squared, np.ones(len(error))]), lambda s: np.sqrt(s[:, 0] / s[:, 1]))
    return {
        "rmse": Metric(root, higher=False),
        "mae": Metric(statistics.mean(np.abs(error).mean(axis=1)), higher=False),
        "r2": Metric(statistics.average([r_squared(targets[:, i], predicted[:, i]) for i in columns])),
        "pearson": Metric(statistics.average([pearson(targets[:, i], predicted[:, i]) for i in columns])),
        "spearman": Metric(statistics.average([spearman(targets[:, i], predicted[:, i]) for i in columns])),
    }


def likelihoods(predictions: Likelihoods) -> dict[str, Metric]:
    """Bits per byte can be compared between tokenizers; perplexity, per token, cannot."""
    nats, tokens = predictions.nats, predictions.tokens
    per_token = np.column_stack([nats, tokens])
    return {
        "bits_per_byte": Metric(statistics.ratio(nats / np.log(2), predictions.bytes), higher=False),
        "perplexity": Metric(statistics.of_sums(per_token, lambda s: np.exp(s[:, 0] / s[:, 1])), higher=False),
        "nats_per_token": Metric(statistics.ratio(nats, tokens), higher=False),
    }


def r_squared(targets: Column, predicted: Column) -> Measure:
    """The share of the variance that is explained."""
    centred = targets - targets.mean()  # sums of squares keep their digits
    table = np.column_stack([(predicted - targets) ** 2, centred, centred**2, np.ones(len(targets))])

    def share(sums: Table) -> Values:
        variance = sums[:, 2] - sums[:, 1] ** 2 / sums[:, 3]
        return np.asarray(1 - sums[:, 0] / np.where(variance > 1e-12 * sums[:, 2], variance, np.nan))

    return statistics.of_sums(table, share)


def pearson(targets: Column, predicted: Column) -> Measure:
    """Linear correlation."""

    def measure(weights: Weights) -> Values:
        return _correlation(weights, *(np.broadcast_to(column, weights.shape) for column in (targets, predicted)))

    return measure


def spearman(targets: Column, predicted: Column) -> Measure:
    """Correlation of ranks; tied values share their mean rank."""
    places = [np.unique(column, return_inverse=True)[1] for column in (targets, predicted)]

    def ranks(weights: Weights, place: npt.NDArray[np.int64]) -> Table:
        order = np.argsort(place, kind="stable")
        starts = np.flatnonzero(np.diff(place[order], prepend=-1))
        by_value = np.add.reduceat(weights[:, order], starts, axis=1)
        return np.asarray((by_value.cumsum(axis=1) - by_value / 2)[:, place])

    return lambda weights: _correlation(weights, *(ranks(weights, place) for place in places))


def _correlation(weights: Weights, first: Table, second: Table) -> Values:
    with np.errstate(divide="ignore", invalid="ignore"):
        total = weights.sum(axis=1, keepdims=True)
        first, second = (x - (weights * x).sum(axis=1, keepdims=True) / total for x in (first, second))
        variances = [(weights * x**2).sum(axis=1) for x in (first, second)]
        return np.asarray((weights * first * second).sum(axis=1) / np.sqrt(variances[0] * variances[1]))
