"""How good points are, with intervals over seeds and held-out rows, and whether one is better than another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import stats

from pretune.evaluation.metrics import compute
from pretune.evaluation.metrics.bootstrap import Bootstrap, Difference, Estimate, Metric
from pretune.studies import outcomes
from pretune.studies.results import TrialResult
from pretune.studies.settings import bounds

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Judge:
    """Compares points by a metric. higher: whether more is better. samples, confidence, seed: of the bootstrap."""

    metric: str
    higher: bool
    samples: int
    confidence: float
    seed: int = 0

    def named(self, name: str) -> Judge:
        """The same judge; `name` is how people call the metric."""
        return replace(self, metric=name)

    def best(self, trials: Sequence[TrialResult]) -> list[TrialResult]:
        """The complete trials, the best mean first; the earlier of equals."""
        sign = -1 if self.higher else 1
        complete = [trial for trial in trials if trial.state == "complete" and math.isfinite(trial.value)]
        return sorted(complete, key=lambda trial: (sign * trial.value, trial.number))

    def estimate(self, trial: TrialResult) -> Estimate:
        """The mean over the seeds, with an interval over seeds and rows, as `estimate_of` makes it.

        Without predictions for the rows, it is Student's interval of the mean over the seeds; with one seed and no
        rows nothing is known, and the interval is NaN. It does not leave the range of the metric.
        """
        values = self._draws(trial)
        if values is None:
            estimate = _student([seed.value for seed in trial.seeds], self.confidence)
            return _within(estimate, *bounds(self.metric))
        return estimate_of(values, self.confidence, self.seed, bounds(self._name(trial)))

    def difference(self, better: TrialResult, worse: TrialResult) -> Difference:
        """By how much `better` is better, with the same seeds, in pairs; positive is always better.

        Rows are paired as well, unless the two were evaluated on different ones (a sweep over the preparation of the
        data): then each has resamples of its own.
        """
        sign = 1 if self.higher else -1
        count = min(len(better.seeds), len(worse.seeds))
        one, other = self._draws(better), self._draws(worse)
        if one is None or other is None:
            pairs = zip(better.seeds[:count], worse.seeds[:count], strict=True)
            gains = [sign * (a.value - b.value) for a, b in pairs]
            estimate, p, name = _student(gains, self.confidence), _student_p(gains), self.metric
        else:
            if not _same_rows(better, worse):
                other = draws(_files(worse), self.metric, self.samples, self.confidence, self.seed + 1)
            by_draw = sign * (one[:count] - other[:count])
            estimate, p = estimate_of(by_draw, self.confidence, self.seed), _p(_over_seeds(by_draw, self.seed))
            name = self._name(better)
        low, high = bounds(name)
        inside = _within(estimate, low - high, high - low)
        return Difference(inside.value, inside.low, inside.high, p)

    def _name(self, trial: TrialResult) -> str:
        """The name of the metric, where that is `headline`."""
        return outcomes.headline_name(Path(trial.seeds[0].held_out)) if self.metric == "headline" else self.metric

    def _draws(self, trial: TrialResult) -> Values | None:
        """The metric of each seed on all rows, then on each resample of them: (seeds, 1 + samples).

        None if there are no predictions, or if the metric is one of the learning curve.
        """
        files = _files(trial)
        if not files or len(files) < len(trial.seeds) or not all(file.is_file() for file in files):
            return None
        if self.metric not in {"headline", *outcomes.facts_of(files[0])[1]}:
            return None
        return draws(files, self.metric, self.samples, self.confidence, self.seed)


def pareto(values: Mapping[int, Sequence[float]], higher: Sequence[bool]) -> list[int]:
    """The trials that no other one is better than in every metric: the Pareto front, the best in the first one first.

    values: by trial, a value for each metric; higher: for each metric, whether more is better. One trial is better
    than another if it is as good in all metrics and better in one (Deb et al. 2002); equal ones are all in the front.
    """
    signs = np.where(higher, 1.0, -1.0)
    points = {number: signs * np.asarray(row, dtype=np.float64) for number, row in values.items()}
    front = [
        number
        for number, point in points.items()
        if not any((other >= point).all() and (other > point).any() for other in points.values())
    ]
    return sorted(front, key=lambda number: (*-points[number], number))


def draws(files: Sequence[Path], metric: str, samples: int, confidence: float, seed: int) -> Values:
    """The metric of each file of predictions on all rows, then on each resample: (files, 1 + samples).

    The resamples are the same for all files. A file's name follows from its content: it is read once.
    """
    return np.stack([_resampled(str(file), metric, samples, confidence, seed) for file in files])


@lru_cache(outcomes.KEPT)
def _resampled(file: str, metric: str, samples: int, confidence: float, seed: int) -> Values:
    predicted = outcomes.predictions(Path(file))
    bootstrap = Bootstrap(compute.count(predicted), samples, confidence, seed)
    return bootstrap.values({metric: metric_of(predicted, metric).measure})[metric]


def _files(trial: TrialResult) -> list[Path]:
    return [Path(seed.held_out) for seed in trial.seeds if seed.held_out]


def _same_rows(one: TrialResult, other: TrialResult) -> bool:
    first, second = (outcomes.facts_of(_files(trial)[0])[0] for trial in (one, other))
    return first == second


def metric_of(predicted: object, name: str) -> Metric:
    """A metric of predictions by name; `headline` is the first."""
    metrics = compute.metrics(predicted)  # type: ignore[arg-type]
    return metrics[next(iter(metrics)) if name == "headline" else name]


def estimate_of(
    values: Values, confidence: float, seed: int, limits: tuple[float, float] = (-math.inf, math.inf)
) -> Estimate:
    """The mean over seeds with an interval over seeds and rows; values: as `draws` returns them. limits: of the metric.

    Rows are resampled (Efron 1979). Seeds are too few for that: of three, one resample in nine has all alike, and
    intervals cover the truth in 81 % instead of 95 %. Instead Student's t of k - 1 degrees of freedom, times the
    standard error over the seeds, is added to the mean over seeds on each resample: without noise between rows the
    interval is Student's, without noise between seeds it is the bootstrap's. What rows and seeds have in common is
    counted twice, which makes the interval a little too wide, as with crossed bootstraps (Owen 2007).
    """
    estimate = Estimate(float(values[:, 0].mean()), *_interval(_over_seeds(values, seed), confidence))
    return _within(estimate, *limits)


def _over_seeds(values: Values, seed: int) -> Values:
    """Means over seeds, one for each resample of rows: (samples,). values: (seeds, 1 + samples)."""
    count, samples = len(values), values.shape[1] - 1
    mean: Values = values[:, 1:].mean(axis=0)
    if count == 1:
        return mean
    error = values[:, 0].std(ddof=1) / math.sqrt(count)
    quantiles = stats.t.ppf((np.arange(samples) + 0.5) / samples, count - 1)
    order: Values = np.random.default_rng([seed, 5]).permutation(quantiles)
    drawn: Values = mean + error * order
    return drawn


def _p(values: Values) -> float:
    """Two-sided p-value for no difference (Davison and Hinkley 1997, chapter 4). values: resampled differences."""
    finite = values[np.isfinite(values)]
    beyond = min((finite <= 0).sum(), (finite >= 0).sum())
    return min(1.0, 2 * float(beyond + 1) / (len(finite) + 1))


def _within(estimate: Estimate, low: float, high: float) -> Estimate:
    """The estimate with its interval cut off at the ends of a range; NaN stays."""
    return Estimate(estimate.value, float(np.clip(estimate.low, low, high)), float(np.clip(estimate.high, low, high)))


def _interval(values: Values, confidence: float) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _student(values: Sequence[float], confidence: float) -> Estimate:
    if not values:
        return Estimate(float("nan"), float("nan"), float("nan"))
    mean = float(np.mean(values))
    if len(values) == 1:
        return Estimate(mean, float("nan"), float("nan"))
    reach = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return Estimate(mean, mean - float(reach), mean + float(reach))


def _student_p(gains: Sequence[float]) -> float:
    if len(gains) < 2:
        return float("nan")
    if np.std(gains) == 0:
        return 1.0 if gains[0] == 0 else 0.0
    return float(stats.ttest_1samp(gains, 0.0).pvalue)
