"""Luck of one recipe: its metrics over seeds on the same test rows, and the differences that these rows can show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isfinite, sqrt

import numpy as np

from pretune.errors import DataError
from pretune.evaluation.metrics import compute
from pretune.evaluation.metrics.bootstrap import Bootstrap, Values
from pretune.objectives.predictions import Predictions
from pretune.studies import spread
from pretune.studies.spread import Spread


@dataclass(frozen=True)
class Luck:
    """A metric over seeds, in its own unit. values: by seed.

    error: standard error, over rows, of the difference between two seeds, root mean square over all pairs. rows: of
    the test.
    """

    values: list[float]
    spread: Spread
    error: float
    rows: int

    @property
    def by_rows(self) -> float:
        """The difference between two given models that the rows can show, with a power of 80 %."""
        return spread.detectable_difference(self.error * sqrt(self.rows), self.rows)

    @property
    def one_seed(self) -> float:
        """The difference between two ways of training, one seed each, that is more than luck of seeds or rows."""
        return max(self.by_rows, spread.detectable_difference_of_runs(self.spread.sd, self.spread.seeds))

    def with_seeds(self, seeds: int) -> float:
        """The same difference between the means over so many seeds each, two at least."""
        return spread.detectable_difference_of_means(self.spread.sd, seeds)

    def seeds_needed(self, difference: float) -> int | None:
        """Seeds for each of two ways of training, so that this difference shows; None if no number is enough."""
        try:
            return spread.seeds_needed(difference, self.spread.sd)
        except DataError:
            return None


def measure(predictions: Sequence[Predictions], *, samples: int, confidence: float, seed: int) -> dict[str, Luck]:
    """The luck of each metric, the headline first; predictions: of each seed, for the same rows.

    The error over rows is that of the paired bootstrap (samples: its draws), which of a mean over rows is the standard
    deviation of the rows' differences over sqrt(rows). Metrics that a seed has no value for are left out. DataError
    with fewer than two seeds.
    """
    if len(predictions) < 2:
        raise DataError(f"{len(predictions)} seeds: luck needs two at least", "pretune study seeds --seeds 5")
    rows = compute.count(predictions[0])
    bootstrap = Bootstrap(rows, samples, confidence, seed)
    by_seed = [compute.metrics(predicted) for predicted in predictions]
    found = {}
    for name in by_seed[0]:
        draws = [bootstrap.values({name: metrics[name].measure})[name] for metrics in by_seed if name in metrics]
        values = [float(drawn[0]) for drawn in draws]
        if len(values) == len(by_seed) and all(map(isfinite, values)):
            found[name] = Luck(values, _spread(values, confidence), _error(draws), rows)
    return found


def _spread(values: Sequence[float], confidence: float) -> Spread:
    """The spread; exactly 0 for equal values, of which rounding would leave some."""
    found, value = spread.spread(values, confidence), values[0]
    if found.minimum < found.maximum:
        return found
    return Spread(value, 0.0, value, value, 0.0, 0.0, value, value, len(values))


def _error(draws: Sequence[Values]) -> float:
    """The standard error over rows of a difference; draws: of each seed, (1 + samples,), on the same resamples."""
    variances = [np.nanvar(one[1:] - other[1:]) for one, other in combinations(draws, 2)]
    return float(np.sqrt(np.mean(variances)))
