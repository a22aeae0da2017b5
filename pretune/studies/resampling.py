"""Bootstrap over seeds: what the same experiment would have given with other seeds.

Seeds are drawn with replacement within their group (one size, one number of labels). Deviations from the group's
mean are scaled by sqrt(k / (k - 1)), k seeds: without it, few seeds make intervals too narrow (Davison and Hinkley
1997, section 2.3). The spread of two or three seeds is mostly chance: groups of fewer than five runs draw from the
deviations of all groups, which must be in comparable units (logarithms, shares of the expected value).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pretune.evaluation.metrics.bootstrap import Estimate

Floats = npt.NDArray[np.float64]
Groups = npt.NDArray[np.intp]
ENOUGH = 5  # runs of a group whose spread is taken from themselves alone


def deviations(values: Floats, groups: Groups) -> Floats:
    """What each run differs from the mean of its group, scaled as above: (runs,); NaN in a group of one run."""
    counts = np.bincount(groups)[groups]
    means = (np.bincount(groups, values) / np.maximum(1, np.bincount(groups)))[groups]
    factors = np.where(counts > 1, np.sqrt(counts / np.maximum(1, counts - 1)), np.nan)
    return np.asarray((values - means) * factors, dtype=np.float64)


def noise(values: Floats, groups: Groups, fitted: Floats, free: int) -> Floats:
    """Deviations to draw from: those within groups or, if no group has two runs, the residuals of the fit.

    values, fitted: (runs,). free: coefficients of the fit, at most as many as there are groups. Empty if the fit
    passes through all points anyway. With few residuals to spare, intervals from them are too narrow.
    """
    within = deviations(values, groups)
    if np.isfinite(within).any():
        return within[np.isfinite(within)]
    spare = len(values) - free
    residuals = values - fitted
    return (residuals - residuals.mean()) * np.sqrt(len(values) / spare) if spare > 0 else np.empty(0)


def resampled(values: Floats, groups: Groups, pool: Floats, samples: int, seed: int) -> Floats:
    """The runs with other seeds: (samples, runs). A group of one run borrows its deviations from the pool.

    values: (runs,). groups: the group of each run, (runs,). pool: see `noise`; if it is empty, all values are NaN.
    """
    if not len(pool):
        return np.full((samples, len(values)), np.nan)
    generator = np.random.default_rng([seed, 5])
    within = deviations(values, groups)
    drawn = np.empty((samples, len(values)))
    for group in range(int(groups.max()) + 1):
        (members,) = np.nonzero(groups == group)
        changes = within[members] if len(members) >= ENOUGH else pool
        drawn[:, members] = values[members].mean() + generator.choice(changes, (samples, len(members)))
    return drawn


def estimate(value: float, draws: Floats, confidence: float) -> Estimate:
    """A value with the percentile interval of its draws, (samples,), which may be infinite; NaN without draws."""
    known = draws[~np.isnan(draws)]
    if not len(known):
        return Estimate(float(value), float("nan"), float("nan"))
    low = np.quantile(known, (1 - confidence) / 2, method="lower")  # "linear" would subtract infinity from infinity
    high = np.quantile(known, (1 + confidence) / 2, method="higher")
    return Estimate(float(value), float(low), float(high))
