"""The scaling law L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, equation 10).

N: parameters of the model, D: tokens it was trained on, L: loss (nats per token, or any positive loss). E is what no
model of this kind gets below, A / N^alpha what a finite model adds, B / D^beta what finite data add.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pretune.errors import DataError
from pretune.evaluation.metrics.bootstrap import Estimate
from pretune.studies.law_fit import NAMES, loss_at, solve
from pretune.studies.resampling import Floats, Groups, estimate, noise, resampled

SAME = 1.01  # numbers of tokens that differ by less than this factor count as one
NEXT = "pretune study size"


@dataclass(frozen=True)
class Run:
    """One training run: parameters (N), tokens trained on (D), its loss, its seed."""

    parameters: float
    tokens: float
    loss: float
    seed: int


@dataclass(frozen=True)
class ScalingLaw:
    """A fitted law. B and beta are None if the tokens did not vary: E then contains what the finite data add.

    data_varies: whether the fit knows about D. tokens: the smallest and the largest D. notes: what the runs could not
    determine, one sentence each.
    draws: E, A, alpha, B, beta, (1 + samples, 5): the fit, followed by those of the bootstrap. noise: deviations of
    single runs from the law, in logarithms of the loss.
    """

    E: Estimate
    A: Estimate
    alpha: Estimate
    B: Estimate | None
    beta: Estimate | None
    data_varies: bool
    tokens: tuple[float, float]
    notes: tuple[str, ...]
    confidence: float
    draws: Floats = field(repr=False, compare=False)
    noise: Floats = field(repr=False, compare=False)

    def predict(self, parameters: float, tokens: float) -> float:
        """The loss of a model of this size after this many tokens.

        DataError if the tokens are others than those of the fit, and those did not vary.
        """
        self._check(tokens)
        return float(loss_at(self.draws[:1], parameters, tokens)[0])

    def predict_with_interval(self, parameters: float, tokens: float, runs: int = 0) -> Estimate:
        """`predict` with its interval, over seeds. runs: 0 for the law itself, k for the mean of k new runs.

        The interval for new runs is a prediction interval: it is wider by the noise of those runs.
        """
        self._check(tokens)
        losses = loss_at(self.draws, parameters, tokens)
        draws = losses[1:]
        if runs and len(self.noise):
            generator = np.random.default_rng([len(draws), 7])
            draws = draws * np.exp(generator.choice(self.noise, (len(draws), runs))).mean(axis=1)
        return estimate(losses[0], draws, self.confidence)

    def _check(self, tokens: float) -> None:
        low, high = self.tokens
        if not self.data_varies and not low / SAME <= tokens <= high * SAME:
            raise DataError(
                f"all runs saw {low:.4g} tokens: the law says nothing about {tokens:.4g}",
                f"add runs with other numbers of tokens (equal compute); then: {NEXT}",
            )


@dataclass(frozen=True)
class Check:
    """The held-out size at one number of tokens: the mean loss of its runs, and its prediction with interval."""

    tokens: float
    runs: int
    measured: float
    predicted: Estimate

    @property
    def inside(self) -> bool:
        """Whether the measured loss lies in the prediction interval; rounding in the last digits is none."""
        slack = 1e-6 * self.measured
        return self.predicted.low - slack <= self.measured <= self.predicted.high + slack

    @property
    def relative_error(self) -> float:
        """(predicted - measured) / measured; positive if the model is better than predicted."""
        return self.predicted.value / self.measured - 1


@dataclass(frozen=True)
class HeldOut:
    """The largest size, the law fitted without it, and one check for each number of tokens it was trained on."""

    parameters: float
    law: ScalingLaw
    checks: tuple[Check, ...]

    @property
    def inside(self) -> bool:
        """Whether all measured losses lie in their prediction intervals; each interval has the confidence alone."""
        return all(check.inside for check in self.checks)


def fit(points: Sequence[Run], *, confidence: float = 0.95, samples: int = 200, seed: int = 0) -> ScalingLaw:
    """The law of these runs, with intervals by bootstrap over seeds within each pair of N and D (`resampling`).

    Robust fit of Hoffmann et al. 2022, section 3.3 (`law_fit.solve`). If all runs saw the same tokens, B and beta
    cannot be told from E: L(N) = E + A / N^alpha is fitted. DataError with fewer than three sizes, or with a loss that
    is not finite and positive.
    """
    _check_runs(points, sizes=3)
    n, d, loss = (np.array([getattr(run, key) for run in points], float) for key in ("parameters", "tokens", "loss"))
    varies = bool(d.max() > d.min() * SAME)
    groups = _groups(points)
    fitted = solve(n, d, loss, data_varies=varies)
    pool = noise(np.log(loss), groups, np.log(loss_at(fitted[None], n, d)), 5 if varies else 3)
    losses = np.exp(resampled(np.log(loss), groups, pool, samples, seed))
    draws = np.array([fitted, *(solve(n, d, drawn, data_varies=varies, start=fitted) for drawn in losses)])
    e, a, alpha, b, beta = (estimate(fitted[column], draws[1:, column], confidence) for column in range(5))
    return ScalingLaw(
        *(e, a, alpha),
        B=b if varies else None,
        beta=beta if varies else None,
        data_varies=varies,
        tokens=(float(d.min()), float(d.max())),
        notes=_notes(n, d, groups, pool, varies),
        confidence=confidence,
        draws=draws,
        noise=pool,
    )


def held_out(points: Sequence[Run], *, confidence: float = 0.95, samples: int = 200, seed: int = 0) -> HeldOut:
    """Fit without the largest size, and compare its mean loss with the prediction for as many runs.

    DataError with fewer than four sizes. A number of tokens that the law without this size says nothing about is left
    out; DataError if none is left.
    """
    _check_runs(points, sizes=4)
    largest = max(run.parameters for run in points)
    law = fit([run for run in points if run.parameters < largest], confidence=confidence, samples=samples, seed=seed)
    low, high = law.tokens
    measured: dict[float, list[float]] = {}
    for run in points:
        if run.parameters == largest and (law.data_varies or low / SAME <= run.tokens <= high * SAME):
            measured.setdefault(run.tokens, []).append(run.loss)
    if not measured:
        raise DataError(
            f"the largest size was not trained on the {low:.4g} tokens that all others saw",
            f"train all sizes on equal data, too; then: {NEXT}",
        )
    checks = [
        Check(tokens, len(losses), float(np.mean(losses)), law.predict_with_interval(largest, tokens, len(losses)))
        for tokens, losses in sorted(measured.items())
    ]
    return HeldOut(largest, law, tuple(checks))


def _check_runs(points: Sequence[Run], sizes: int) -> None:
    problems = [
        f"a run of {run.parameters:.4g} parameters, {run.tokens:.4g} tokens, seed {run.seed} has the loss {run.loss}"
        for run in points
        if not (np.isfinite(run.loss) and run.loss > 0 and run.parameters > 0 and run.tokens > 0)
    ]
    distinct = len({run.parameters for run in points})
    if problems:
        raise DataError(problems, f"leave out runs that diverged, or lower their learning rate; then: {NEXT}")
    if distinct < sizes:
        purpose = "a scaling law" if sizes == 3 else "holding the largest out"
        raise DataError(
            f"{distinct} sizes; {purpose} needs {sizes} at least", f"add {sizes - distinct} more; then: {NEXT}"
        )


def _groups(points: Sequence[Run]) -> Groups:
    """The group of each run: one for each pair of N and D, (runs,)."""
    numbers: dict[tuple[float, float], int] = {}
    return np.array([numbers.setdefault((run.parameters, run.tokens), len(numbers)) for run in points], dtype=np.intp)


def _notes(n: Floats, d: Floats, groups: Groups, pool: Floats, varies: bool) -> tuple[str, ...]:
    free, pairs, amounts = (5 if varies else 3), int(groups.max()) + 1, len(np.unique(d))
    proportional = varies and abs(np.corrcoef(np.log(n), np.log(d))[0, 1]) > 0.99
    said = {
        "all runs saw the same tokens: B and beta cannot be told from E": not varies,
        f"{pairs} pairs of size and tokens for {free} {', '.join(NAMES[:free])}: too few to determine them": pairs
        < free,
        "two numbers of tokens only: many pairs of B and beta fit alike": varies and amounts == 2,
        "tokens follow the size: their effects cannot be told apart; add runs at equal data": proportional,
        "no size has two seeds: the intervals come from the residuals": len(pool) == len(n) and pairs == len(n),
        "no size has two seeds, and the law passes through all points: no intervals": not len(pool),
    }
    return tuple(text for text, holds in said.items() if holds)
