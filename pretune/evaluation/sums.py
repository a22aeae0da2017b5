"""Metrics that follow from sums over rows, and those that follow from the order of scores: as measures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pretune.evaluation.intervals import Measure, Values, Weights

Table = npt.NDArray[np.float64]


def of_sums(statistics: npt.ArrayLike, function: Callable[[Table], Values]) -> Measure:
    """A metric that is a `function` of (draws, statistics), the sums over rows of (rows, statistics)."""
    table = np.asarray(statistics, dtype=np.float64)

    def measure(weights: Weights) -> Values:
        with np.errstate(divide="ignore", invalid="ignore"):
            return function(weights @ table)

    return measure


def mean(values: npt.ArrayLike) -> Measure:
    """The mean of one value per row: (rows,)."""
    found = np.asarray(values, dtype=np.float64)
    return ratio(found, np.ones(len(found)))


def ratio(above: npt.ArrayLike, below: npt.ArrayLike) -> Measure:
    """The sum of one value per row over the sum of another: (rows,), (rows,)."""
    return of_sums(np.column_stack([above, below]), lambda sums: sums[:, 0] / sums[:, 1])


def roc_auc(positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.floating]) -> Measure:
    """Area under the ROC curve: the chance that a positive row scores above a negative one, ties by half."""
    order, starts = _groups(scores)

    def measure(weights: Weights) -> Values:
        above, below = _sums_by_group(weights, positive, order, starts)
        lower = below.cumsum(axis=1) - below
        with np.errstate(divide="ignore", invalid="ignore"):
            found = (above * (lower + below / 2)).sum(axis=1) / (above.sum(axis=1) * below.sum(axis=1))
        return np.asarray(found)

    return measure


def average_precision(positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.floating]) -> Measure:
    """Area under the precision-recall curve, without interpolation."""
    order, starts = _groups(scores)

    def measure(weights: Weights) -> Values:
        above, below = (part[:, ::-1] for part in _sums_by_group(weights, positive, order, starts))
        found, all_found = above.cumsum(axis=1), (above + below).cumsum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            precision = np.where(all_found > 0, found / all_found, 0.0)
            area = (above * precision).sum(axis=1) / above.sum(axis=1)
        return np.asarray(area)

    return measure


def average(measures: list[Measure]) -> Measure:
    """The mean of several measures, those without a value left out."""

    def measure(weights: Weights) -> Values:
        values = np.stack([each(weights) for each in measures])
        known = np.isfinite(values)
        with np.errstate(invalid="ignore"):
            found = np.where(known, values, 0.0).sum(axis=0) / known.sum(axis=0)
        return np.asarray(found)

    return measure


def _groups(scores: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows by rising score, and where each score begins among them."""
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    return order, np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))


def _sums_by_group(
    weights: Weights, positive: npt.NDArray[np.bool_], order: npt.NDArray[np.int64], starts: npt.NDArray[np.int64]
) -> tuple[Table, Table]:
    """Weights of positive and of negative rows of each score: (draws, scores) each."""
    ranked, right = weights[:, order], positive[order]
    return np.add.reduceat(ranked * right, starts, axis=1), np.add.reduceat(ranked * ~right, starts, axis=1)
