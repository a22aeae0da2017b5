"""Learning curves: error(n) = a + b n^-c at n labels (Cortes et al. 1993, "Learning Curves").

a is the error that more labels do not remove, b + a that of one label, c how fast it falls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pretune.errors import DataError
from pretune.evaluation.metrics.bootstrap import Estimate
from pretune.studies.resampling import Floats, Groups, estimate, noise, resampled

NEXT = "pretune study labels"
SLOWEST, FASTEST = 0.01, 5.0  # c
REFINEMENTS = 5  # each makes c eight times as exact


@dataclass(frozen=True)
class Point:
    """The metric of one run that was trained with this many labels."""

    labels: int
    seed: int
    metric: float


@dataclass(frozen=True)
class Needed:
    """Labels with their interval; infinite if the curve never gets there.

    beyond: whether they lie outside the numbers that were tried, so that the curve is extrapolated.
    """

    labels: Estimate
    beyond: bool


@dataclass(frozen=True)
class LabelCurve:
    """A fitted curve of errors: 1 - metric if higher is better, otherwise the metric (a loss) itself.

    labels: the smallest and the largest number tried. draws: a, b, c, (1 + samples, 3): the fit, followed by those of
    the bootstrap.
    """

    a: Estimate
    b: Estimate
    c: Estimate
    higher_is_better: bool
    labels: tuple[int, int]
    confidence: float
    draws: Floats = field(repr=False, compare=False)

    def predict(self, labels: float) -> Estimate:
        """The metric at this many labels, with its interval."""
        values = self._errors(labels)
        values = 1 - values if self.higher_is_better else values
        return estimate(values[0], values[1:], self.confidence)

    def labels_needed(self, target: float) -> Needed:
        """Labels at which the curve reaches this value of the metric; at least 1.

        Infinite if the target lies beyond the asymptote. The interval is over n and seeds; its upper end is infinite
        if the asymptote of enough draws is.
        """
        error = 1 - target if self.higher_is_better else target
        return self._needed(np.full(len(self.draws), error))

    def _errors(self, labels: float) -> Floats:
        a, b, c = self.draws.T
        return np.asarray(a + b * labels**-c, dtype=np.float64)

    def _needed(self, errors: Floats) -> Needed:
        """Labels for an error of each draw, (1 + samples,)."""
        a, b, c = self.draws.T
        room = errors - a
        with np.errstate(all="ignore"):
            labels = np.exp((np.log(b) - np.log(room)) / c)
        labels = np.where(room > 0, np.maximum(1.0, labels), np.where((b == 0) & (room == 0), 1.0, np.inf))
        labels = np.where(np.isnan(self.draws).any(axis=1), np.nan, labels)
        return Needed(estimate(labels[0], labels[1:], self.confidence), not self._tried(labels[0]))

    def _tried(self, labels: float) -> bool:
        slack = 1e-6  # a target at the very end of the curve is not beyond it
        return bool(self.labels[0] * (1 - slack) <= labels <= self.labels[1] * (1 + slack))


def fit(
    points: Sequence[Point], higher_is_better: bool, *, confidence: float = 0.95, samples: int = 1000, seed: int = 0
) -> LabelCurve:
    """The curve of these runs; least squares of relative errors, a >= 0, b >= 0; intervals by bootstrap over seeds.

    Relative errors, since runs with few labels vary more. Runs that get worse with more labels give a flat curve.
    DataError with fewer than three numbers of labels, a metric that is not finite, above 1 (if higher is better) or
    negative (if lower is better).
    """
    _check(points, higher_is_better)
    numbers = np.array(sorted({point.labels for point in points}))
    groups = np.searchsorted(numbers, [point.labels for point in points]).astype(np.intp)
    errors = np.array([1 - point.metric if higher_is_better else point.metric for point in points])
    means = _means(errors[None], groups)
    weights = np.bincount(groups) / np.maximum(means[0], 0.05 * means.max() or 1.0) ** 2
    fitted = _solve(numbers, means, weights)[0]
    predicted = np.maximum(1e-12, fitted[0] + fitted[1] * numbers ** -fitted[2])[groups]
    relative = errors / predicted
    pool = noise(relative, groups, np.ones_like(relative), free=3)
    drawn = np.maximum(0.0, resampled(relative, groups, pool, samples, seed)) * predicted
    draws = np.concatenate([fitted[None], _solve(numbers, _means(drawn, groups), weights)])
    a, b, c = (estimate(fitted[column], draws[1:, column], confidence) for column in range(3))
    return LabelCurve(a, b, c, higher_is_better, (int(numbers[0]), int(numbers[-1])), confidence, draws)


def equivalent(curve_pretrained: LabelCurve, curve_scratch: LabelCurve, labels: int) -> Needed:
    """How many labels the second needs to be as good as the first with `labels`; infinite if it never is.

    Both curves must have the same metric and as many draws; DataError otherwise.
    """
    first, second = curve_pretrained, curve_scratch
    if first.higher_is_better != second.higher_is_better or len(first.draws) != len(second.draws):
        raise DataError("the curves have different metrics or draws", "fit both in the same way")
    needed = second._needed(first._errors(labels))
    return Needed(needed.labels, needed.beyond or not first._tried(labels))


def _means(errors: Floats, groups: Groups) -> Floats:
    """The mean of each group: (samples, groups) from (samples, runs)."""
    member = groups[:, None] == np.arange(groups.max() + 1)
    return np.asarray(errors @ member / member.sum(axis=0), dtype=np.float64)


def _solve(numbers: Floats, means: Floats, weights: Floats) -> Floats:
    """a, b, c of the best fit to each row of mean errors: (samples, 3) from (samples, groups).

    For a given c, a and b are a linear problem (variable projection, Golub and Pereyra 1973); c is searched on a
    logarithmic grid that is refined around its best value.
    """
    if np.isnan(means).all():
        return np.full((len(means), 3), np.nan)
    rows = np.arange(len(means))
    grid = np.broadcast_to(np.linspace(np.log(SLOWEST), np.log(FASTEST), 65), (len(means), 65))
    for _ in range(REFINEMENTS + 1):
        a, b, misfit = _linear(numbers, means, weights, np.exp(grid))
        best = np.argmin(misfit, axis=1)
        found = np.stack([a[rows, best], b[rows, best], np.exp(grid[rows, best])], axis=1)
        step = (grid[:, 1] - grid[:, 0])[:, None]
        grid = np.clip(grid[rows, best][:, None] + step * np.linspace(-1, 1, 17), np.log(SLOWEST), np.log(FASTEST))
    found[found[:, 1] == 0, 2] = 1.0  # a flat curve has no exponent
    return found


def _linear(numbers: Floats, means: Floats, weights: Floats, c: Floats) -> tuple[Floats, Floats, Floats]:
    """a, b and the misfit of the best fit with a >= 0, b >= 0 for each c: (samples, grid)."""
    x = (numbers / numbers[0]) ** -c[..., None]  # (samples, grid, groups), between 0 and 1
    w, y = weights / weights.sum(), means[:, None, :]
    sx, sxx, sy, sxy = (x * w).sum(-1), (x * x * w).sum(-1), (y * w).sum(-1), (x * y * w).sum(-1)
    b = (sxy - sx * sy) / np.maximum(sxx - sx * sx, 1e-300)
    a = sy - b * sx
    b = np.where(a < 0, sxy / sxx, b)
    a = np.where(a < 0, 0.0, a)
    a, b = np.where(b <= 1e-12 * sy, sy, a), np.where(b <= 1e-12 * sy, 0.0, b)
    misfit = ((a[..., None] + b[..., None] * x - y) ** 2 * w).sum(-1)
    return a, b * numbers[0] ** c, misfit


def _check(points: Sequence[Point], higher_is_better: bool) -> None:
    allowed = "at most 1" if higher_is_better else "0 or more"
    problems = [
        f"the metric with {point.labels} labels, seed {point.seed}, is {point.metric}; it must be finite and {allowed}"
        for point in points
        if not np.isfinite(point.metric) or (point.metric > 1 if higher_is_better else point.metric < 0)
    ]
    problems += [
        f"{point.labels} labels, seed {point.seed}: labels must be 1 or more" for point in points if point.labels < 1
    ]
    distinct = len({point.labels for point in points})
    if distinct < 3:
        problems.append(f"{distinct} numbers of labels; a curve needs three at least")
    if problems:
        raise DataError(problems, f"add numbers of labels, leave out runs that diverged; then: {NEXT}")
