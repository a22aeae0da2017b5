"""Metrics that follow from sums over rows, and those that follow from the order of scores: as measures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pretune.evaluation.metrics.bootstrap import Measure, Values, Weights

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
    ranked = _ranked(positive, scores)

    def measure(weights: Weights) -> Values:
        between, tied, above, beyond = ranked(weights)
        lower = between.cumsum(axis=0)
        lower[1:] += tied.cumsum(axis=0)[:-1]
        negative = lower[-1] + tied[-1] + beyond if len(lower) else beyond
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((above * (lower + tied / 2)).sum(axis=0) / (above.sum(axis=0) * negative))

    return measure


def average_precision(positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.floating]) -> Measure:
    """Area under the precision-recall curve, without interpolation."""
    ranked = _ranked(positive, scores)

    def measure(weights: Weights) -> Values:
        between, tied, above, beyond = ranked(weights)
        found = above[::-1].cumsum(axis=0)
        other = (above + tied)[::-1]  # and what was said before them by mistake
        other[:1] += beyond
        other[1:] += between[:0:-1]
        with np.errstate(divide="ignore", invalid="ignore"):
            precision = np.where(found > 0, found / other.cumsum(axis=0), 0.0)
            return np.asarray((above[::-1] * precision).sum(axis=0) / above.sum(axis=0))

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


def _ranked(
    positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.floating]
) -> Callable[[Weights], tuple[Table, Table, Table, Values]]:
    """A function that sums weights: (scores of positive rows, draws), by rising score, and (draws,).

    Of the negative rows below that score and above the one before, of the negative ones that have it, of the positive
    ones that have it; and of the negative rows above all of them. A sparse product adds up just what is in each sum.
    """
    from scipy.sparse import csr_array

    steps = np.unique(scores[positive])
    place = np.searchsorted(steps, scores)  # of the first step that is not lower
    ties = np.append(steps, np.nan)[place] == scores
    number = np.where(positive, 2, np.where(ties, 1, 0)) * len(steps) + place
    number[place == len(steps)] = 3 * len(steps)
    sums = csr_array((np.ones(len(scores)), (number, np.arange(len(scores)))), shape=(3 * len(steps) + 1, len(scores)))

    def measure(weights: Weights) -> tuple[Table, Table, Table, Values]:
        found = sums @ np.ascontiguousarray(weights.T)
        return (*np.split(found[:-1], 3), found[-1])

    return measure
