"""Confidence intervals of metrics, and paired comparisons of models, by the bootstrap (Efron 1979).

A measure is a function from weights of rows, (draws, rows), to values, (draws,): the metric on the data set in
which each row occurs as often as its weight says. Weights of one give the metric itself, counts of rows drawn with
replacement give its bootstrap distribution, zeros and ones give the metric on a slice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

Weights = npt.NDArray[np.float64]  # (draws, rows)
Values = npt.NDArray[np.float64]  # (draws,)
Measure = Callable[[Weights], Values]
CELLS = 2_000_000  # weights in memory at once


@dataclass(frozen=True)
class Estimate:
    """A value with its bootstrap interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """Rounded: to four decimals, or to four digits."""
        return {key: _rounded(number) for key, number in asdict(self).items()}


@dataclass(frozen=True)
class Difference(Estimate):
    """How much better one model is than another; `p` is the two-sided p-value for no difference."""

    p: float


class Bootstrap:
    """Percentile intervals. All measures are taken on the same resampled rows, so that differences are paired.

    The values of a measure are cached: a later difference does not compute them again.
    """

    def __init__(self, rows: int, bootstrap_samples: int, confidence: float, seed: int) -> None:
        self.rows, self.bootstrap_samples, self.seed = rows, bootstrap_samples, seed
        self.tails = [(1 - confidence) / 2, (1 + confidence) / 2]
        self._cache: dict[Measure, Values] = {}

    def estimates(self, measures: Mapping[str, Measure]) -> dict[str, Estimate]:
        """Each measure with its interval; a measure without a value (ROC AUC of one class) is left out."""
        return {
            name: Estimate(float(values[0]), *self._interval(values[1:]))
            for name, values in self.values(measures).items()
            if np.isfinite(values[0])
        }

    def difference(self, better: Measure, worse: Measure, *, sign: int = 1) -> Difference:
        """`sign` x (`better` - `worse`) on the same rows; sign: -1 for a metric that is better when it is lower."""
        values = self.values({"better": better, "worse": worse})
        differences = sign * (values["better"] - values["worse"])
        low, high = self._interval(differences[1:])
        resampled = differences[1:][np.isfinite(differences[1:])]
        beyond = min((resampled <= 0).sum(), (resampled >= 0).sum())  # Davison and Hinkley 1997, chapter 4
        p = min(1.0, 2 * float(beyond + 1) / (len(resampled) + 1))
        return Difference(float(differences[0]), low, high, p)

    def values(self, measures: Mapping[str, Measure]) -> dict[str, Values]:
        """Each measure on all rows, followed by its values on the resamples: (1 + bootstrap_samples,)."""
        new = [measure for measure in dict.fromkeys(measures.values()) if measure not in self._cache]
        if new:
            parts = [[measure(weights) for measure in new] for weights in (np.ones((1, self.rows)), *self._resamples())]
            self._cache |= {
                measure: np.concatenate(values) for measure, values in zip(new, zip(*parts, strict=True), strict=True)
            }
        return {name: self._cache[measure] for name, measure in measures.items()}

    def _resamples(self) -> Iterator[Weights]:
        """How often each row was drawn, for some resamples at a time; a row's counts are contiguous in memory."""
        generator = np.random.default_rng([self.seed, 3])
        at_once = max(1, CELLS // self.rows)
        for start in range(0, self.bootstrap_samples, at_once):
            draws = min(at_once, self.bootstrap_samples - start)
            rows = generator.integers(0, self.rows, (draws, self.rows))
            cells = rows * draws + np.arange(draws)[:, None]
            counts = np.bincount(cells.ravel(), minlength=self.rows * draws)
            yield counts.reshape(self.rows, draws).astype(np.float64).T

    def _interval(self, values: Values) -> tuple[float, float]:
        finite = values[np.isfinite(values)]
        if not len(finite):
            return float("nan"), float("nan")
        low, high = np.quantile(finite, self.tails)
        return float(low), float(high)


@dataclass(frozen=True)
class Metric:
    """A measure, whether higher is better, and sacrebleu's signature of how it was computed."""

    measure: Measure
    higher: bool = True
    signature: str = ""

    @property
    def sign(self) -> int:
        """The factor that makes positive differences better."""
        return 1 if self.higher else -1


def on_rows(measure: Measure, mask: npt.NDArray[np.bool_]) -> Measure:
    """The measure on the rows of a mask only: (rows,)."""
    return lambda weights: measure(weights * mask)


def _rounded(number: float) -> float:
    """Four decimals; four significant digits below 0.01 and from 1000 on."""
    return round(number, 4) if 1e-2 < abs(number) < 1e3 else float(f"{number:.4g}")
