"""What models and costs are called in reports, tables and messages, and which model an evaluation is about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

MODELS = {  # in the order in which they are shown
    "aligned": "aligned with preferences after finetuning",
    "finetuned": "finetuned from the pretrained model",
    "base": "the checkpoint as it came",
    "scratch": "the same model from scratch",
    "tfidf": "TF-IDF and a linear model",
    "words": "words in common, by TF-IDF",
    "pixels": "pixels and a linear model",
    "linear": "linear model",
    "nearest": "nearest training row or sentence",
    "silent": "no answer to any question",
    "unigram": "frequencies of bytes",
    "longer": "the longer answer",
    "mean": "mean of the training rows",
    "majority": "majority baseline",
}
PRETRAINED = "models/pretrained"  # has no head for the test rows: it is read to measure forgetting only
BROUGHT = {"scratch": "pretraining", "base": "training"}  # what the gain over a model is owed to
COSTS = {  # metrics of the run of a training stage
    "seconds": "seconds",
    "device_hours": "device hours",
    "flops": "FLOPs",
    "energy_kwh": "kWh",
    "co2_kg": "kg of CO₂",
    "parameters": "parameters",
    "system/process_memory_usage_megabytes": "MB of memory",
}


def compared(deps: Iterable[str], init: str | None) -> list[str]:
    """Of the deps of `evaluate`: the folders of models that are compared, the evaluated one first.

    init: the checkpoint in `model.init`, which may be a folder of the workspace.
    """
    return [path for path in deps if path.startswith("models/") and path not in {PRETRAINED, init}]


def evaluated(results: Mapping[str, Any]) -> str:
    """Of reports/metrics.json: the model that is compared with all others; "" where nothing was evaluated.

    It stands first, as `evaluate` lists it first in dvc.yaml (tasks/evaluate.py).
    """
    return next((name for name, value in results.items() if isinstance(value, Mapping)), "")


def before(models: Iterable[str]) -> str:
    """Of the models that were compared, the evaluated one first: the one before its training; "" if it was not asked.

    Of a second stage of finetuning that is the model of the first one, otherwise the checkpoint as it came.
    """
    own, *others = models
    return next((name for name in ("finetuned", "base") if name in others and name != own), "")


def in_order(models: Iterable[str]) -> list[str]:
    """Models in the order in which they are shown; those of a graph of one's own come first."""
    places = {name: number for number, name in enumerate(MODELS)}
    return sorted(models, key=lambda name: places.get(name, -1))


def models_of(results: Mapping[str, Any]) -> list[str]:
    """Of reports/metrics.json: all models, in the order in which they are shown."""
    known = {evaluated(results), *results.get("gain", {}), *MODELS}
    return in_order([name for name in results if name in known])


def brought(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Of reports/metrics.json: (model, what the gain over it is owed to) for those that were compared with."""
    owed = dict(BROUGHT)
    if taught := results.get("taught"):  # the model from scratch learns from the answers alone
        owed["scratch"] = "pretraining and the teacher" if taught["pretrained"] else "the teacher"
    return [(name, what) for name, what in owed.items() if name in results.get("gain", {})]


def describe(model: str) -> str:
    """What a model is called."""
    return MODELS.get(model, model)
