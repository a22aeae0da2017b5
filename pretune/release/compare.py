"""Evaluations side by side: the same metrics on the rows that all of them tested, differences row by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pretune.evaluation.metrics import compute
from pretune.evaluation.metrics.bootstrap import Bootstrap, Difference, Estimate
from pretune.objectives import predictions_io
from pretune.objectives.predictions import Predictions
from pretune.objectives.predictions_io import StoredPredictions


@dataclass(frozen=True)
class Comparison:
    """rows: that all have tested, 0 where they cannot be compared, `reason` then says why.

    scores: {evaluation: {metric: ...}}; gains: of each evaluation but the first over it, above 0 being better.
    """

    rows: int
    reason: str
    scores: dict[str, dict[str, Estimate]]
    gains: dict[str, dict[str, Difference]]


def compare(
    found: Mapping[str, StoredPredictions],
    *,
    bootstrap_samples: int,
    confidence: float,
    seed: int,
    model: str = "finetuned",
) -> Comparison:
    """Compare the `model` of each evaluation on the rows that they have in common."""
    said = {name: each.models[model] for name, each in found.items()}
    if len({type(each) for each in said.values()}) > 1:
        return Comparison(0, "they answer in different forms", {}, {})
    if len({tuple(getattr(each, "names", ())) for each in said.values()}) > 1:
        return Comparison(0, "they tell different classes apart", {}, {})
    first, *others = found.values()
    shared = set(first.rows).intersection(*(other.rows for other in others))
    rows = [row for row in dict.fromkeys(first.rows) if row in shared]
    if not rows:
        return Comparison(0, "no row was tested by all of them", {}, {})
    same = {name: _only(each.rows, said[name], rows) for name, each in found.items()}
    if len({_targets(each) for each in same.values()}) > 1:
        return Comparison(0, "the right answers to the same rows differ", {}, {})
    bootstrap = Bootstrap(len(rows), bootstrap_samples, confidence, seed)
    known = {name: compute.metrics(each) for name, each in same.items()}
    scores = {
        name: bootstrap.estimates({key: metric.measure for key, metric in each.items()}) for name, each in known.items()
    }
    base, *rest = known
    gains = {
        name: {key: compute.gain(known[name], known[base], bootstrap, key) for key in known[base] if key in known[name]}
        for name in rest
    }
    return Comparison(len(rows), "", scores, gains)


def _only(rows: list[str], said: Predictions, wanted: list[str]) -> Predictions:
    place = {row: number for number, row in enumerate(rows)}
    return predictions_io.take(said, [place[row] for row in wanted])


def _targets(said: Predictions) -> str:
    targets: Any = getattr(said, "targets", None)
    return str(targets if targets is None or isinstance(targets, list) else targets.tolist())
