"""Measures: functions of sums over rows, and areas under curves of ranked scores."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pretune.evaluation.metrics.bootstrap import Measure, Values, Weights

Table = npt.NDArray[np.float64]


def of_sums(statistics: npt.ArrayLike, function: Callable[[Table], Values]) -> Measure:
    """A `function` of (draws, statistics), the weighted sums over rows of (rows, statistics)."""
    table = np.asarray(statistics, dtype=np.float64)

    def measure(weights: Weights) -> Values:
        with np.errstate(divide="ignore", invalid="ignore"):
            return function(weights @ table)

    return measure


def mean(values: npt.ArrayLike) -> Measure:
    """The mean of one value per row: (rows,)."""
    column = np.asarray(values, dtype=np.float64)
    return ratio(column, np.ones(len(column)))


def ratio(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> Measure:
    """The sum of one value per row divided by the sum of another: (rows,), (rows,)."""
    return of_sums(np.column_stack([numerator, denominator]), lambda sums: sums[:, 0] / sums[:, 1])


def roc_auc(positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.floating]) -> Measure:
    """Area under the ROC curve: the probability that a positive row scores above a negative one; ties count half."""
    ranked = _ranked(positive, scores)

    def measure(weights: Weights) -> Values:
        between, tied, hits, beyond = ranked(weights)
        lower = between.cumsum(axis=0)
        lower[1:] += tied.cumsum(axis=0)[:-1]
        negative = lower[-1] + tied[-1] + beyond if len(lower) else beyond
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((hits * (lower + tied / 2)).sum(axis=0) / (hits.sum(axis=0) * negative))

    return measure


def average_precision(positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.floating]) -> Measure:
    """Area under the precision-recall curve, without interpolation."""
    ranked = _ranked(positive, scores)

    def measure(weights: Weights) -> Values:
        between, tied, hits, beyond = ranked(weights)
        true_positives = hits[::-1].cumsum(axis=0)
        predicted = (hits + tied)[::-1]  # per threshold, from the highest; below: the negative rows in between
        predicted[:1] += beyond
        predicted[1:] += between[:0:-1]
        with np.errstate(divide="ignore", invalid="ignore"):
            precision = np.where(true_positives > 0, true_positives / predicted.cumsum(axis=0), 0.0)
            return np.asarray((hits[::-1] * precision).sum(axis=0) / hits.sum(axis=0))

    return measure


def average(measures: list[Measure]) -> Measure:
    """The mean of several measures; those without a value are left out."""

    def measure(weights: Weights) -> Values:
        values = np.stack([part(weights) for part in measures])
        finite = np.isfinite(values)
        with np.errstate(invalid="ignore"):
            mean_value = np.where(finite, values, 0.0).sum(axis=0) / finite.sum(axis=0)
        return np.asarray(mean_value)

    return measure


def _ranked(
    positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.floating]
) -> Callable[[Weights], tuple[Table, Table, Table, Values]]:
    """A function from weights to sums of weights, by the ascending scores of positive rows: (scores, draws).

    The sums are those of the negative rows between the score before and this one, of the negative rows with this
    score, of the positive rows with this score; and (draws,), of the negative rows above all of these scores. A sparse
    product adds only the rows that belong to each sum.
    """
    from scipy.sparse import csr_array

    steps = np.unique(scores[positive])
    place = np.searchsorted(steps, scores)  # of the first step that is not lower
    ties = np.append(steps, np.nan)[place] == scores
    group = np.where(positive, 2, np.where(ties, 1, 0)) * len(steps) + place
    group[place == len(steps)] = 3 * len(steps)
    members = csr_array(
        (np.ones(len(scores)), (group, np.arange(len(scores)))), shape=(3 * len(steps) + 1, len(scores))
    )

    def grouped(weights: Weights) -> tuple[Table, Table, Table, Values]:
        sums = members @ np.ascontiguousarray(weights.T)
        return (*np.split(sums[:-1], 3), sums[-1])

    return grouped
