"""The learning-rate range test (Smith 2017, section 3.3), and the plateau of a sweep over rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pretune.errors import DataError
from pretune.evaluation.metrics.bootstrap import Estimate
from pretune.studies.resampling import Floats

NEXT = "pretune study learning-rate"
FEWEST = 10  # losses
CERTAIN = 4.0  # standard errors by which the smoothed loss must fall; its minimum is the lowest of many


@dataclass(frozen=True)
class Bracket:
    """Rates between which a sweep is worth its time.

    low: where the loss has begun to fall. steepest: where it falls fastest. high: the last one before it rises.
    diverged: the first rate at which the loss was not finite, or has risen above where it began; None if it never did.
    """

    low: float
    high: float
    steepest: float
    diverged: float | None


@dataclass(frozen=True)
class Plateau:
    """Rates that are as good as the best one, as far as the sweep can tell: from `low` to `high`.

    left_edge, right_edge: quality lost per factor of 2 in the rate, from the plateau to the next rate outside, in the
    metric's unit; infinite if that one diverged, None if the sweep does not reach outside.
    """

    best: float
    low: float
    high: float
    left_edge: float | None
    right_edge: float | None


def smoothed(losses: Floats, span: float) -> Floats:
    """Exponential smoothing with bias correction, (steps,): weights exp(-|i - j| / span), normalized at each step.

    From both sides, since the usual one-sided average lags behind by `span` steps, which moves the bracket to larger
    rates. The normalization corrects the bias at the ends (Kingma and Ba 2015, section 3).
    """
    from scipy.signal import lfilter

    decay = float(np.exp(-1 / span))

    def both_sides(values: Floats) -> Floats:
        before, after = (lfilter([1.0], [1.0, -decay], part) for part in (values, values[::-1]))
        return np.asarray(before + after[::-1] - values, dtype=np.float64)

    return both_sides(losses) / both_sides(np.ones_like(losses))


def bracket(
    rates: Sequence[float],
    losses: Sequence[float],
    *,
    smoothing: float = 0.03,
    fallen: float = 0.1,
    risen: float = 0.1,
) -> Bracket:
    """The bracket of a run whose rate grew exponentially; rates, losses: one for each step, (steps,).

    smoothing: the span of the smoothing, as a share of the steps. fallen: `low` is where the smoothed loss has fallen
    by this share of its whole fall. risen: `high` is the last rate before it exceeds its minimum by this share of the
    fall. A loss that is not finite ends the usable part. DataError if rates are not positive and growing, fewer than
    ten losses are usable, or the loss does not fall by more than its noise.
    """
    rate, loss = np.asarray(rates, dtype=float), np.asarray(losses, dtype=float)
    _check_run(rate, loss)
    usable = _usable(loss)
    if usable < FEWEST:
        raise DataError(
            f"the loss was finite in the first {usable} steps only; {FEWEST} are needed",
            f"begin at a rate below {rate[0]:.3g}, or take more steps; then: {NEXT}",
        )
    span = max(1.0, smoothing * usable)
    curve = smoothed(_capped(loss[:usable]), span)
    lowest = int(np.argmin(curve))
    fall = float(curve[0] - curve[lowest])
    _check_fall(rate[:usable], loss[:usable], curve, span)
    first = _last(curve[: lowest + 1] > curve[0] - fallen * fall) + 1
    rising = np.flatnonzero(curve[lowest:] > curve[lowest] + risen * fall)
    last = lowest + int(rising[0]) - 1 if len(rising) else usable - 1
    steepest = _steepest(np.log(rate[:usable]), curve, first, lowest, round(span))
    return Bracket(float(rate[first]), float(rate[last]), float(rate[steepest]), _diverged(rate, curve, lowest))


def plateau(
    rates: Sequence[float], estimates: Sequence[Estimate], higher_is_better: bool, tolerance: float = 0.0
) -> Plateau:
    """The plateau of a sweep; rates: in any order, (points,); estimates: the metric over seeds at each, (points,).

    A rate belongs to it if its interval covers the best value, or its value is within `tolerance` (in the metric's
    unit) of it, and so do all rates between it and the best one. An estimate of NaN is a run that diverged. DataError
    if rates are not positive and distinct, or no estimate is finite.
    """
    order = np.argsort(rates, kind="stable")
    rate, sorted_estimates = np.asarray(rates, dtype=float)[order], [estimates[index] for index in order]
    values = np.array([estimate.value for estimate in sorted_estimates]) * (1 if higher_is_better else -1)
    _check_sweep(rate, values)
    finite = np.where(np.isfinite(values), values, -np.inf)
    best = int(np.argmax(finite))
    top = sorted_estimates[best].value
    alike = [item.low <= top <= item.high or abs(item.value - top) <= tolerance for item in sorted_estimates]
    alike[best] = True  # even with an interval of NaN
    low, high = best, best
    while low > 0 and alike[low - 1]:
        low -= 1
    while high < len(rate) - 1 and alike[high + 1]:
        high += 1
    edges = [_edge(rate, finite, *pair) for pair in ((low, low - 1), (high, high + 1))]
    return Plateau(float(rate[best]), float(rate[low]), float(rate[high]), *edges)


def _edge(rate: Floats, values: Floats, inside: int, outside: int) -> float | None:
    """Quality lost per factor of 2 between two neighbours; None if there is no neighbour."""
    if not 0 <= outside < len(rate):
        return None
    return float((values[inside] - values[outside]) / abs(np.log2(rate[inside] / rate[outside])))


def _usable(loss: Floats) -> int:
    """How many losses there are before the first that is not finite."""
    wrong = np.flatnonzero(~np.isfinite(loss))
    return int(wrong[0]) if len(wrong) else len(loss)


def _capped(loss: Floats) -> Floats:
    """Losses at most as far above the start as the lowest is below: an explosion must not reach smaller rates."""
    start = float(np.median(loss[:FEWEST]))
    return np.minimum(loss, start + max(start - float(loss.min()), 0.0) + _noise(loss))


def _noise(loss: Floats) -> float:
    """Standard deviation of a single loss, from differences of neighbours; robust to an explosion."""
    return float(1.4826 * np.median(np.abs(np.diff(loss))) / np.sqrt(2))


def _last(mask: np.typing.NDArray[np.bool_]) -> int:
    """The index of the last True; -1 without one."""
    return int(np.flatnonzero(mask)[-1]) if mask.any() else -1


def _steepest(logs: Floats, curve: Floats, first: int, lowest: int, width: int) -> int:
    """The step of the steepest fall per logarithm of the rate, over `width` steps to each side."""
    steps = np.arange(first, lowest + 1)
    before, after = np.maximum(steps - width, 0), np.minimum(steps + width, lowest)
    before = np.minimum(before, after - 1)
    return int(steps[np.argmin((curve[after] - curve[before]) / (logs[after] - logs[before]))])


def _diverged(rate: Floats, curve: Floats, lowest: int) -> float | None:
    above = np.flatnonzero(curve[lowest:] > curve[0])
    if len(above):
        return float(rate[lowest + above[0]])
    return float(rate[len(curve)]) if len(curve) < len(rate) else None


def _check_run(rate: Floats, loss: Floats) -> None:
    problems = []
    if rate.shape != loss.shape or rate.ndim != 1:
        problems.append(f"{rate.size} rates, but {loss.size} losses")
    if not (np.isfinite(rate).all() and (rate > 0).all() and (np.diff(rate) > 0).all()):
        problems.append("the rates must be positive, each larger than the one before")
    if problems:
        raise DataError(problems, f"run the range test again: {NEXT}")


def _check_fall(rate: Floats, loss: Floats, curve: Floats, span: float) -> None:
    """DataError if the smoothed loss falls by no more than noise would let it; it says which way to move the range."""
    threshold = max(CERTAIN * _noise(loss) / np.sqrt(span), 1e-9 * abs(float(curve[0])))
    if curve[0] - curve.min() > threshold:
        return
    if np.median(loss[-FEWEST:]) - np.median(loss[:FEWEST]) > threshold:
        raise DataError(
            f"the loss only rises between the rates {rate[0]:.3g} and {rate[-1]:.3g}",
            f"begin at a smaller rate, {rate[0] / 100:.1g} say; then: {NEXT}",
        )
    raise DataError(
        f"the loss does not change between the rates {rate[0]:.3g} and {rate[-1]:.3g}, beyond its noise",
        f"end at a larger rate, {rate[-1] * 100:.1g} say, or take more steps; then: {NEXT}",
    )


def _check_sweep(rate: Floats, values: Floats) -> None:
    problems = []
    if len(rate) != len(values) or not len(rate):
        problems.append(f"{len(rate)} rates, but {len(values)} estimates")
    if not (np.isfinite(rate).all() and (rate > 0).all() and (np.diff(rate) > 0).all()):
        problems.append("the rates must be positive and distinct")
    if not np.isfinite(values).any():
        problems.append("no rate has a finite metric: all runs diverged")
    if problems:
        raise DataError(problems, f"try smaller rates: {NEXT}")
