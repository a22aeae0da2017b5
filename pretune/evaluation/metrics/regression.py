"""Metrics of numbers, and of how well texts were foreseen."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pretune.evaluation.metrics import statistics
from pretune.evaluation.metrics.bootstrap import Measure, Metric, Values, Weights
from pretune.evaluation.metrics.statistics import Table
from pretune.objectives.predictions import Likelihoods, Numbers

Column = npt.NDArray[np.float64]


def numbers(found: Numbers) -> dict[str, Metric]:
    """Errors over all numbers; what relates them to their spread is averaged over columns."""
    targets, predicted = found.targets.astype(np.float64), found.predicted.astype(np.float64)
    error, columns = predicted - targets, range(targets.shape[1])
    squared = (error**2).mean(axis=1)
    root = statistics.of_sums(np.column_stack([squared, np.ones(len(error))]), lambda s: np.sqrt(s[:, 0] / s[:, 1]))
    return {
        "rmse": Metric(root, higher=False),
        "mae": Metric(statistics.mean(np.abs(error).mean(axis=1)), higher=False),
        "r2": Metric(statistics.average([explained(targets[:, i], predicted[:, i]) for i in columns])),
        "pearson": Metric(statistics.average([pearson(targets[:, i], predicted[:, i]) for i in columns])),
        "spearman": Metric(statistics.average([spearman(targets[:, i], predicted[:, i]) for i in columns])),
    }


def likelihoods(found: Likelihoods) -> dict[str, Metric]:
    """Bits per byte compare between tokenizers; perplexity, per token, does not."""
    per_token = np.column_stack([found.nats, found.tokens])
    return {
        "bits_per_byte": Metric(statistics.ratio(found.nats / np.log(2), found.bytes), higher=False),
        "perplexity": Metric(statistics.of_sums(per_token, lambda s: np.exp(s[:, 0] / s[:, 1])), higher=False),
        "nats_per_token": Metric(statistics.ratio(found.nats, found.tokens), higher=False),
    }


def explained(targets: Column, predicted: Column) -> Measure:
    """R squared: the share of the variance that is explained."""
    centred = targets - targets.mean()  # sums of squares keep their digits
    table = np.column_stack([(predicted - targets) ** 2, centred, centred**2, np.ones(len(targets))])

    def function(found: Table) -> Values:
        spread = found[:, 2] - found[:, 1] ** 2 / found[:, 3]
        return np.asarray(1 - found[:, 0] / np.where(spread > 1e-12 * found[:, 2], spread, np.nan))

    return statistics.of_sums(table, function)


def pearson(targets: Column, predicted: Column) -> Measure:
    """Linear correlation."""

    def measure(weights: Weights) -> Values:
        return _correlation(weights, *(np.broadcast_to(each, weights.shape) for each in (targets, predicted)))

    return measure


def spearman(targets: Column, predicted: Column) -> Measure:
    """Correlation of ranks, ties sharing the middle one."""
    places = [np.unique(each, return_inverse=True)[1] for each in (targets, predicted)]

    def ranks(weights: Weights, place: npt.NDArray[np.int64]) -> Table:
        order = np.argsort(place, kind="stable")
        starts = np.flatnonzero(np.diff(place[order], prepend=-1))
        heavy = np.add.reduceat(weights[:, order], starts, axis=1)
        return np.asarray((heavy.cumsum(axis=1) - heavy / 2)[:, place])

    return lambda weights: _correlation(weights, *(ranks(weights, place) for place in places))


def _correlation(weights: Weights, first: Table, second: Table) -> Values:
    with np.errstate(divide="ignore", invalid="ignore"):
        total = weights.sum(axis=1, keepdims=True)
        first, second = (each - (weights * each).sum(axis=1, keepdims=True) / total for each in (first, second))
        spreads = [(weights * each**2).sum(axis=1) for each in (first, second)]
        return np.asarray((weights * first * second).sum(axis=1) / np.sqrt(spreads[0] * spreads[1]))
