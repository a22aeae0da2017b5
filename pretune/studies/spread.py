"""How much is luck: the spread of a metric over seeds, and the differences that a test can find.

Power: Card et al. 2020, "With Little Power Comes Great Responsibility"; variance over seeds: Bouthillier et al. 2021,
"Accounting for Variance in Machine Learning Benchmarks". All tests are two-sided t-tests; their power comes from the
noncentral t distribution (Cohen 1988, chapter 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, sqrt

import numpy as np

from pretune.errors import DataError

MOST_SEEDS = 1_000_000


@dataclass(frozen=True)
class Spread:
    """A metric over seeds, in its own unit.

    sd: standard deviation between seeds (of the sample, n - 1). low, high: t-interval of the mean. sd_low, sd_high:
    chi-square interval of sd. minimum, maximum: the worst and best seed, or the reverse if lower is better.
    """

    mean: float
    sd: float
    low: float
    high: float
    sd_low: float
    sd_high: float
    minimum: float
    maximum: float
    seeds: int


def spread(values: Sequence[float], confidence: float = 0.95) -> Spread:
    """The spread of a metric; values: one for each seed. Both intervals assume that seeds vary normally.

    DataError with fewer than two values, or with one that is not finite.
    """
    problems = [f"the metric of a seed is {value}" for value in values if not isfinite(value)]
    if len(values) < 2:
        problems.append(f"{len(values)} seeds: a spread needs two at least")
    if problems:
        raise DataError(problems, "add seeds, leave out runs that diverged; then: pretune study seeds")
    from scipy import stats

    k, mean, sd = len(values), float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(stats.t.ppf((1 + confidence) / 2, k - 1)) * sd / sqrt(k)
    tails = stats.chi2.ppf([(1 + confidence) / 2, (1 - confidence) / 2], k - 1)
    sd_low, sd_high = (sd * sqrt((k - 1) / float(tail)) for tail in tails)
    return Spread(mean, sd, mean - half, mean + half, sd_low, sd_high, min(values), max(values), k)


def detectable_difference(sd: float, rows: int, *, power: float = 0.8, level: float = 0.05) -> float:
    """The smallest true difference between two models that a paired test on this many rows finds with this power.

    sd: standard deviation, over rows, of the difference between the two models' scores of a row (for accuracy: -1, 0
    or 1). In the unit of the score. Close to (z_(1 - level/2) + z_power) sd / sqrt(rows) when there are many rows
    (Card et al. 2020, section 3). DataError with fewer than two rows, or a negative sd.
    """
    _check(sd=sd, count=rows, what="rows", power=power, level=level)
    return _noncentrality(rows - 1, power, level) * sd / sqrt(rows)


def detectable_difference_of_runs(sd: float, known_from: int, *, power: float = 0.8, level: float = 0.05) -> float:
    """The smallest true difference between two models with one seed each, found with this power.

    sd: standard deviation between seeds, known from so many other runs; a pair of runs alone says nothing of it. In
    the unit of sd. DataError with fewer than two runs, or a negative sd.
    """
    _check(sd=sd, count=known_from, what="seeds", power=power, level=level)
    return _noncentrality(known_from - 1, power, level) * sd * sqrt(2)


def detectable_difference_of_means(sd: float, seeds: int, *, power: float = 0.8, level: float = 0.05) -> float:
    """The smallest true difference between the means of two models, each over k seeds, found with this power.

    sd: standard deviation between seeds, taken to be the same for both models (Bouthillier et al. 2021, section 4).
    In the unit of sd. DataError with fewer than two seeds, or a negative sd.
    """
    _check(sd=sd, count=seeds, what="seeds", power=power, level=level)
    return _noncentrality(2 * seeds - 2, power, level) * sd * sqrt(2 / seeds)


def seeds_needed(difference: float, sd: float, *, power: float = 0.8, level: float = 0.05) -> int:
    """Seeds for each of two models, so that a test of their means finds this difference with this power; 2 at least.

    difference, sd: in the same unit; the sign of the difference does not matter. DataError if the difference is 0, or
    so small that more than a million seeds would be needed.
    """
    _check(sd=sd, count=2, what="seeds", power=power, level=level)
    wanted = abs(difference)

    def enough(seeds: int) -> bool:
        return detectable_difference_of_means(sd, seeds, power=power, level=level) <= wanted

    if not isfinite(wanted) or wanted == 0 or not enough(MOST_SEEDS):
        problem = f"no feasible number of seeds finds a difference of {difference:g} with a spread of {sd:g}"
        raise DataError(problem, "name a larger difference, or compare on the same rows (a paired test)")
    few, many = 1, 2
    while not enough(many):
        few, many = many, min(2 * many, MOST_SEEDS)
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return many


def _noncentrality(freedom: int, power: float, level: float) -> float:
    """The true difference in standard errors at which a two-sided t-test rejects with this power."""
    from scipy import stats
    from scipy.optimize import brentq

    critical = float(stats.t.ppf(1 - level / 2, freedom))

    def missing(shift: float) -> float:
        opposite = np.nan_to_num(stats.nct.cdf(-critical, freedom, shift))  # scipy: NaN where it is next to nothing
        return float(stats.nct.sf(critical, freedom, shift) + opposite) - power

    highest = critical + 10.0
    while missing(highest) < 0:
        highest *= 2
    return float(brentq(missing, 0.0, highest))


def _check(*, sd: float, count: int, what: str, power: float, level: float) -> None:
    problems = []
    if not (isfinite(sd) and sd >= 0):
        problems.append(f"the standard deviation is {sd}; it must be 0 or more")
    if count < 2:
        problems.append(f"{count} {what}: a test needs two at least")
    if not 0 < level < power < 1:
        problems.append(f"level {level} and power {power}: 0 < level < power < 1 must hold")
    if problems:
        raise DataError(problems, f"give more {what}, or other values; then: pretune study seeds")
