"""Curves of quality by labels, with and without pretraining, and the labels that a target takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pretune.errors import DataError
from pretune.evaluation.metrics.bootstrap import Difference, Estimate
from pretune.studies import label_curve
from pretune.studies.label_curve import LabelCurve, Needed
from pretune.studies.settings import bounds

WITH, WITHOUT = "with pretraining", "without pretraining"


@dataclass(frozen=True)
class Measured:
    """A model trained on some labels. values: of the test rows, by seed; test: their mean with its interval.

    gain: of pretraining with the same labels; None without pretraining.
    """

    labels: int
    epochs: int
    pretrained: bool
    values: list[float]
    test: Estimate
    gain: Difference | None


@dataclass(frozen=True)
class Curves:
    """The fitted curve with and without pretraining; None where it could not be fitted. scale: the metric's best."""

    with_pretraining: LabelCurve | None
    without: LabelCurve | None
    scale: float
    problem: str = ""

    @property
    def by_name(self) -> dict[str, LabelCurve]:
        """Those that could be fitted, the one with pretraining first."""
        found = {WITH: self.with_pretraining, WITHOUT: self.without}
        return {name: curve for name, curve in found.items() if curve}


def fitted(measured: Sequence[Measured], metric: str, *, higher: bool) -> Curves:
    """The curves through what was measured; a metric that ends at 100 is fitted as a share of that."""
    best = bounds(metric)[1]
    scale = best if higher and math.isfinite(best) else 1.0
    found: dict[bool, LabelCurve] = {}
    problems = []
    for pretrained in (True, False):
        seen = [
            label_curve.Point(one.labels, seed, value / scale)
            for one in measured
            if one.pretrained == pretrained
            for seed, value in enumerate(one.values)
        ]
        try:
            if seen:
                found[pretrained] = label_curve.fit(seen, higher, seed=int(pretrained))
        except DataError as error:
            problems += error.problems
    return Curves(found.get(True), found.get(False), scale, "; ".join(dict.fromkeys(problems)))


def needed(measured: Sequence[Measured], curves: Curves, target: float | None) -> tuple[float, dict[str, Needed]]:
    """The target and, by way of training, the labels that it takes.

    Without a target: what the model without pretraining reaches with all labels, by its curve; then the interval of
    the labels that pretraining needs is over both curves.
    """
    count, without, pretrained = most(measured), curves.without, curves.with_pretraining
    if target is None and without:
        found = {WITHOUT: Needed(Estimate(count, count, count), beyond=False)}
        if pretrained:
            found = {WITH: label_curve.equivalent(without, pretrained, count)} | found
        return without.predict(count).value * curves.scale, found
    wanted = next(one.test.value for one in measured if one.labels == count) if target is None else target
    return wanted, {name: curve.labels_needed(wanted / curves.scale) for name, curve in curves.by_name.items()}


def most(measured: Sequence[Measured]) -> int:
    """The largest number of labels."""
    return max(one.labels for one in measured)


def scaled(estimate: Estimate, scale: float) -> Estimate:
    """The estimate in the unit of the metric."""
    return Estimate(estimate.value * scale, estimate.low * scale, estimate.high * scale)
