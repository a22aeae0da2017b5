"""Compares evaluations: the same metrics on the rows that all of them tested, and paired differences."""

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
    """rows: number of rows that all have tested; 0 if they cannot be compared, then `reason` says why.

    scores: {evaluation: {metric: estimate}}; gains: of each evaluation but the first over the first; above 0 is better.
    """

    rows: int
    reason: str
    scores: dict[str, dict[str, Estimate]]
    gains: dict[str, dict[str, Difference]]


def compare(
    evaluations: Mapping[str, StoredPredictions],
    *,
    bootstrap_samples: int,
    confidence: float,
    seed: int,
) -> Comparison:
    """Compare the evaluated model of each evaluation, on the rows that they have in common."""
    predictions = {name: stored.evaluated for name, stored in evaluations.items()}
    if len({type(predicted) for predicted in predictions.values()}) > 1:
        return _not_comparable("their predictions have different forms")
    if len({tuple(getattr(predicted, "names", ())) for predicted in predictions.values()}) > 1:
        return _not_comparable("they have different classes")
    first, *others = evaluations.values()
    shared = set(first.rows).intersection(*(other.rows for other in others))
    rows = [row for row in dict.fromkeys(first.rows) if row in shared]
    if not rows:
        return _not_comparable("no row was tested by all of them")
    on_shared = {name: _take(stored.rows, predictions[name], rows) for name, stored in evaluations.items()}
    if len({_targets(predicted) for predicted in on_shared.values()}) > 1:
        return _not_comparable("the targets of the same rows differ")
    bootstrap = Bootstrap(len(rows), bootstrap_samples, confidence, seed)
    metrics = {name: compute.metrics(predicted) for name, predicted in on_shared.items()}
    scores = {
        name: bootstrap.estimates({key: metric.measure for key, metric in own.items()}) for name, own in metrics.items()
    }
    base, *rest = metrics
    gains = {
        name: {
            key: compute.gain(metrics[name], metrics[base], bootstrap, key)
            for key in metrics[base]
            if key in metrics[name]
        }
        for name in rest
    }
    return Comparison(len(rows), "", scores, gains)


def _not_comparable(reason: str) -> Comparison:
    return Comparison(0, reason, {}, {})


def _take(rows: list[str], predictions: Predictions, chosen: list[str]) -> Predictions:
    """The predictions for the chosen rows. rows: the keys of all rows, in the order of the predictions."""
    place = {row: number for number, row in enumerate(rows)}
    return predictions_io.take(predictions, [place[row] for row in chosen])


def _targets(predictions: Predictions) -> str:
    targets: Any = getattr(predictions, "targets", None)
    return str(targets if targets is None or isinstance(targets, list) else targets.tolist())
