"""Metrics of every form of predictions, with intervals; two models are compared on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pretune.evaluation import of_classes, of_numbers, of_texts
from pretune.evaluation.intervals import Bootstrap, Difference, on
from pretune.evaluation.metric import Metric
from pretune.objectives.predictions import Answers, Classes, Likelihoods, ManyLabels, Numbers, Predictions, Tags, Texts

Where = npt.NDArray[np.bool_]  # (rows,)

FORMS: dict[type, Callable[[Any], dict[str, Metric]]] = {
    Classes: of_classes.classes,
    ManyLabels: of_classes.many_labels,
    Numbers: of_numbers.numbers,
    Tags: of_texts.tags,
    Answers: of_texts.answers,
    Texts: of_texts.texts,
    Likelihoods: of_numbers.likelihoods,
}


def metrics(found: Predictions) -> dict[str, Metric]:
    """The metrics of this form; the first is the headline, by which models are told apart."""
    return FORMS[type(found)](found)


def count(found: Predictions) -> int:
    """The number of rows."""
    return len(found.nats if isinstance(found, Likelihoods) else found.targets)


def measured(said: Mapping[str, Predictions], bootstrap: Bootstrap) -> dict[str, Any]:
    """Every model's metrics, and in the first of them by how much the first model is better than each other one."""
    result: dict[str, Any] = {"test_rows": bootstrap.rows}
    for name, found in said.items():
        scores = bootstrap.estimates({key: metric.measure for key, metric in metrics(found).items()})
        result[name] = {key: estimate.as_dict() for key, estimate in scores.items()}
    own, *others = said
    result["gain"] = {name: gain(said[own], said[name], bootstrap).as_dict() for name in others}
    return result


def gain(better: Predictions, worse: Predictions, bootstrap: Bootstrap, metric: str = "") -> Difference:
    """By how much `better` is better in `metric` (default: the headline), row by row; above 0 is better, always."""
    first, second = metrics(better), metrics(worse)
    name = metric or next(iter(first))
    return bootstrap.difference(first[name].measure, second[name].measure, sign=first[name].sign)


def sliced(found: Predictions, slices: Mapping[str, Where], bootstrap: Bootstrap) -> list[dict[str, float | str]]:
    """The headline on each slice of the rows, with its interval."""
    measure = next(iter(metrics(found).values())).measure
    scores = bootstrap.estimates({name: on(measure, where) for name, where in slices.items()})
    return [{"slice": name, "rows": int(slices[name].sum()), **each.as_dict()} for name, each in scores.items()]
