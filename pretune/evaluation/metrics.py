"""Metrics of every form of predictions, with intervals; two models are compared on the same rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from pretune.evaluation import of_classes, of_numbers, of_texts
from pretune.evaluation.intervals import Bootstrap, Difference, Estimate
from pretune.evaluation.metric import Metric
from pretune.objectives.predictions import Answers, Classes, Likelihoods, ManyLabels, Numbers, Predictions, Tags, Texts

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


def score(
    found: Predictions, bootstrap: Bootstrap, where: npt.NDArray[np.bool_] | None = None, *, headline: bool = False
) -> dict[str, Estimate]:
    """Each metric (or the headline alone) with its interval, on the rows `where`."""
    known = metrics(found)
    names = list(known)[: 1 if headline else None]
    return bootstrap.estimates({name: known[name].measure for name in names}, where)


def gains(better: Predictions, worse: Predictions, bootstrap: Bootstrap, names: list[str]) -> dict[str, Difference]:
    """By how much `better` is better in the metrics `names`, row by row; above 0 is better, whatever the metric."""
    first, second = metrics(better), metrics(worse)
    return {
        name: bootstrap.difference(first[name].measure, second[name].measure, sign=first[name].sign)
        for name in names
        if name in first and name in second
    }
