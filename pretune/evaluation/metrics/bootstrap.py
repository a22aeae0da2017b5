"""Intervals by the bootstrap (Efron 1979), and paired comparisons: how sure a metric and a difference are.

A measure is a function of weights of rows: it takes (draws, rows) and gives (draws,), the metric on
the data set in which each row occurs as often as its weight says. Ones give the metric itself, counts
of rows drawn with replacement its bootstrap, zeros and ones that of a slice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

Weights = npt.NDArray[np.float64]  # (draws, rows)
Values = npt.NDArray[np.float64]  # (draws,)
Measure = Callable[[Weights], Values]
CELLS = 2_000_000  # weights that are held at once


@dataclass(frozen=True)
class Estimate:
    """A value with the interval that the bootstrap gives it."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """Rounded to what the interval can carry."""
        return {key: _rounded(number) for key, number in asdict(self).items()}


@dataclass(frozen=True)
class Difference(Estimate):
    """How much better one model is than another; `p` is the chance of so much if neither were better (two-sided)."""

    p: float


class Bootstrap:
    """Percentile intervals from the same resampled rows for every measure: so differences are paired.

    What a measure gave is kept: asked about again, in a difference, it costs nothing.
    """

    def __init__(self, rows: int, bootstrap_samples: int, confidence: float, seed: int) -> None:
        self.rows, self.bootstrap_samples, self.seed = rows, bootstrap_samples, seed
        self.tails = [(1 - confidence) / 2, (1 + confidence) / 2]
        self._known: dict[Measure, Values] = {}

    def estimates(self, measures: Mapping[str, Measure]) -> dict[str, Estimate]:
        """Each measure with its interval; one without a value (of one class only, say) is left out."""
        return {
            name: Estimate(float(found[0]), *self._interval(found[1:]))
            for name, found in self._drawn(measures).items()
            if np.isfinite(found[0])
        }

    def difference(self, better: Measure, worse: Measure, *, sign: int = 1) -> Difference:
        """`sign` x (`better` less `worse`) on the same rows; sign -1 for what is better when it is lower."""
        values = self._drawn({"better": better, "worse": worse})
        found = sign * (values["better"] - values["worse"])
        low, high = self._interval(found[1:])
        drawn = found[1:][np.isfinite(found[1:])]
        beyond = min((drawn <= 0).sum(), (drawn >= 0).sum())  # Davison and Hinkley 1997, chapter 4
        return Difference(float(found[0]), low, high, min(1.0, 2 * float(beyond + 1) / (len(drawn) + 1)))

    def _drawn(self, measures: Mapping[str, Measure]) -> dict[str, Values]:
        """The measures on all rows, then on each resample."""
        new = [measure for measure in dict.fromkeys(measures.values()) if measure not in self._known]
        if new:
            parts = [
                [measure(weights) for measure in new] for weights in (np.ones((1, self.rows)), *self._samples_of_rows())
            ]
            self._known |= {
                measure: np.concatenate(values) for measure, values in zip(new, zip(*parts, strict=True), strict=True)
            }
        return {name: self._known[measure] for name, measure in measures.items()}

    def _samples_of_rows(self) -> Iterator[Weights]:
        """How often each row was drawn, for some samples at a time; a row's numbers lie together in memory."""
        generator = np.random.default_rng([self.seed, 3])
        at_once = max(1, CELLS // self.rows)
        for start in range(0, self.bootstrap_samples, at_once):
            draws = min(at_once, self.bootstrap_samples - start)
            rows = generator.integers(0, self.rows, (draws, self.rows))
            cells = rows * draws + np.arange(draws)[:, None]
            counts = np.bincount(cells.ravel(), minlength=self.rows * draws)
            yield counts.reshape(self.rows, draws).astype(np.float64).T

    def _interval(self, drawn: Values) -> tuple[float, float]:
        finite = drawn[np.isfinite(drawn)]
        if not len(finite):
            return float("nan"), float("nan")
        low, high = np.quantile(finite, self.tails)
        return float(low), float(high)


@dataclass(frozen=True)
class Metric:
    """A measure, whether more of it is better, and how exactly it was taken where there are several ways."""

    measure: Measure
    higher: bool = True
    signature: str = ""

    @property
    def sign(self) -> int:
        """What a difference is multiplied by, so that positive is better."""
        return 1 if self.higher else -1


def on(measure: Measure, where: npt.NDArray[np.bool_]) -> Measure:
    """The measure of the rows `where` alone: (rows,)."""
    return lambda weights: measure(weights * where)


def _rounded(number: float) -> float:
    """Four decimals, or four digits of what is smaller or larger."""
    return round(number, 4) if 1e-2 < abs(number) < 1e3 else float(f"{number:.4g}")
