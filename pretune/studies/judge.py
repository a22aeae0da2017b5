"""How good points are, with intervals over seeds and held-out rows, and whether one is better than another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import stats

from pretune.evaluation.metrics import compute
from pretune.evaluation.metrics.bootstrap import Bootstrap, Difference, Estimate, Metric
from pretune.studies import outcomes
from pretune.studies.results import TrialResult

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
        """The mean over the seeds, with an interval over seeds and rows: the crossed bootstrap (Owen 2007).

        Without predictions for the rows, it is Student's interval of the mean over the seeds; with one seed and no
        rows nothing is known, and the interval is NaN.
        """
        draws = self._draws(trial)
        if draws is None:
            return _student([seed.value for seed in trial.seeds], self.confidence)
        values = _over_seeds(draws, self._generator())
        return Estimate(float(draws[:, 0].mean()), *_interval(values, self.confidence))

    def difference(self, better: TrialResult, worse: TrialResult) -> Difference:
        """By how much `better` is better, on the same rows and with the same seeds; positive is always better."""
        sign = 1 if self.higher else -1
        count = min(len(better.seeds), len(worse.seeds))
        one, other = self._draws(better), self._draws(worse)
        if one is None or other is None:
            pairs = zip(better.seeds[:count], worse.seeds[:count], strict=True)
            gains = [sign * (a.value - b.value) for a, b in pairs]
            estimate = _student(gains, self.confidence)
            return Difference(estimate.value, estimate.low, estimate.high, _student_p(gains))
        gains_by_draw = sign * (one[:count] - other[:count])
        values = _over_seeds(gains_by_draw, self._generator())
        beyond = min((values <= 0).sum(), (values >= 0).sum())
        p = min(1.0, 2 * float(beyond + 1) / (len(values) + 1))
        return Difference(float(gains_by_draw[:, 0].mean()), *_interval(values, self.confidence), p)

    def _draws(self, trial: TrialResult) -> Values | None:
        """The metric of each seed on all rows, then on each resample of them: (seeds, 1 + samples)."""
        files = [seed.held_out for seed in trial.seeds]
        if not files or not all(file and Path(file).is_file() for file in files):
            return None
        return draws([Path(file) for file in files], self.metric, self.samples, self.confidence, self.seed)

    def _generator(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, 5])


def draws(files: Sequence[Path], metric: str, samples: int, confidence: float, seed: int) -> Values:
    """The metric of each file of predictions on all rows, then on each resample: (files, 1 + samples).

    The resamples are the same for all files.
    """
    predicted = [outcomes.predictions(file) for file in files]
    bootstrap = Bootstrap(compute.count(predicted[0]), samples, confidence, seed)
    measures = {str(number): metric_of(one, metric).measure for number, one in enumerate(predicted)}
    return np.stack(list(bootstrap.values(measures).values()))


def metric_of(predicted: object, name: str) -> Metric:
    """A metric of predictions by name; `headline` is the first."""
    metrics = compute.metrics(predicted)  # type: ignore[arg-type]
    return metrics[next(iter(metrics)) if name == "headline" else name]


def estimate_of(values: Values, confidence: float, seed: int) -> Estimate:
    """The mean over seeds with its interval; values: as `draws` returns them."""
    resampled = _over_seeds(values, np.random.default_rng([seed, 5]))
    return Estimate(float(values[:, 0].mean()), *_interval(resampled, confidence))


def _over_seeds(values: Values, generator: np.random.Generator) -> Values:
    """Means over resampled seeds, one for each resample of rows: (samples,). values: (seeds, 1 + samples).

    A mean of k resampled seeds varies by (k - 1) / k of what it should; the deviation is stretched accordingly.
    """
    resamples = values[:, 1:]
    count, samples = resamples.shape
    if count == 1:
        only: Values = resamples[0]
        return only
    chosen = generator.integers(0, count, (count, samples))
    mean = resamples.mean(axis=0)
    deviation = np.take_along_axis(resamples, chosen, axis=0).mean(axis=0) - mean
    stretched: Values = mean + math.sqrt(count / (count - 1)) * deviation
    return stretched


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
