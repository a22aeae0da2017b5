"""Metrics of every form of predictions, with intervals; two models are compared on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pretune.evaluation.metrics import classification, regression, text
from pretune.evaluation.metrics.bootstrap import Bootstrap, Difference, Metric, on
from pretune.objectives.predictions import Answers, Classes, Likelihoods, ManyLabels, Numbers, Predictions, Tags, Texts

Where = npt.NDArray[np.bool_]  # (rows,)

FORMS: dict[type, Callable[[Any], dict[str, Metric]]] = {
    Classes: classification.classes,
    ManyLabels: classification.many_labels,
    Numbers: regression.numbers,
    Tags: text.tags,
    Answers: text.answers,
    Texts: text.texts,
    Likelihoods: regression.likelihoods,
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
    known = {name: metrics(found) for name, found in said.items()}
    for name, each in known.items():
        scores = bootstrap.estimates({key: metric.measure for key, metric in each.items()})
        result[name] = {key: estimate.as_dict() for key, estimate in scores.items()}
    own, *others = known.values()
    result["gain"] = {
        name: gain(own, each, bootstrap).as_dict() for name, each in zip(list(known)[1:], others, strict=True)
    }
    return result


def gain(better: Mapping[str, Metric], worse: Mapping[str, Metric], bootstrap: Bootstrap, name: str = "") -> Difference:
    """By how much `better` is better in one metric (default: the headline), row by row; above 0 is better, always."""
    name = name or next(iter(better))
    return bootstrap.difference(better[name].measure, worse[name].measure, sign=better[name].sign)


def sliced(found: Predictions, slices: Mapping[str, Where], bootstrap: Bootstrap) -> list[dict[str, float | str]]:
    """The headline on each slice of the rows, with its interval."""
    measure = next(iter(metrics(found).values())).measure
    scores = bootstrap.estimates({name: on(measure, where) for name, where in slices.items()})
    return [{"slice": name, "rows": int(slices[name].sum()), **each.as_dict()} for name, each in scores.items()]
