"""Metrics of every form of predictions, with intervals; models are compared on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pretune.evaluation.metrics import classification, preferences, ranking, regression, text
from pretune.evaluation.metrics.bootstrap import Bootstrap, Difference, Metric, on_rows
from pretune.evaluation.slices import Mask
from pretune.objectives.predictions import (
    Answers,
    Classes,
    Judgements,
    Likelihoods,
    ManyLabels,
    Numbers,
    Predictions,
    Preferences,
    Rankings,
    Replies,
    Tags,
    Texts,
)

FORMS: dict[type, Callable[[Any], dict[str, Metric]]] = {
    Classes: classification.classes,
    ManyLabels: classification.many_labels,
    Numbers: regression.numbers,
    Tags: text.tags,
    Answers: text.answers,
    Texts: text.texts,
    Replies: text.replies,
    Likelihoods: regression.likelihoods,
    Rankings: ranking.rankings,
    Preferences: preferences.preferences,
    Judgements: preferences.judgements,
}


def metrics(predictions: Predictions) -> dict[str, Metric]:
    """The metrics of this form of predictions; the first is the headline, by which models are compared."""
    return FORMS[type(predictions)](predictions)


def count(predictions: Predictions) -> int:
    """The number of rows."""
    return len(predictions.nats if isinstance(predictions, Likelihoods) else predictions.targets)


def evaluate_models(predictions: Mapping[str, Predictions], bootstrap: Bootstrap) -> dict[str, Any]:
    """{model: {metric: estimate}}, and under "gain" by how much the first model is better than each other one.

    Of preferences also "win_rate", how often the first model answers better than each other one that answers.
    """
    result: dict[str, Any] = {"test_rows": bootstrap.rows}
    by_model = {name: metrics(predicted) for name, predicted in predictions.items()}
    for name, model_metrics in by_model.items():
        estimates = bootstrap.estimates({key: metric.measure for key, metric in model_metrics.items()})
        result[name] = {key: estimate.as_dict() for key, estimate in estimates.items()}
    first, *others = by_model
    result["gain"] = {name: gain(by_model[first], by_model[name], bootstrap).as_dict() for name in others}
    if rates := preferences.win_rates(predictions, bootstrap):
        result["win_rate"] = rates
    return result


def gain(better: Mapping[str, Metric], worse: Mapping[str, Metric], bootstrap: Bootstrap, name: str = "") -> Difference:
    """By how much `better` is better in one metric (default: the headline), row by row; positive is always better."""
    name = name or next(iter(better))
    return bootstrap.difference(better[name].measure, worse[name].measure, sign=better[name].sign)


def evaluate_slices(
    predictions: Predictions, masks: Mapping[str, Mask], bootstrap: Bootstrap
) -> list[dict[str, float | str]]:
    """The headline on each slice, with its interval. masks: {slice: mask of its rows}."""
    measure = next(iter(metrics(predictions).values())).measure
    estimates = bootstrap.estimates({name: on_rows(measure, mask) for name, mask in masks.items()})
    return [
        {"slice": name, "rows": int(masks[name].sum()), **estimate.as_dict()} for name, estimate in estimates.items()
    ]
