"""Predictions on disk: those of several models for the same test rows, to be compared later, row by row."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from pretune.objectives import predictions
from pretune.objectives.predictions import Predictions

SHARED = ("names", "targets")  # the same for all models
TYPES = {"targets": np.int64, "tokens": np.int64, "bytes": np.int64, "nats": np.float64}  # of arrays; float32 else
DIGITS = 6


@dataclass(frozen=True)
class StoredPredictions:
    """rows: a key for each input (data/rows.py, input_key); models: the predictions of each model.

    The first model is the one that was evaluated, the others are what it was compared with.
    """

    rows: list[str]
    models: dict[str, Predictions]

    @property
    def evaluated(self) -> Predictions:
        """The predictions of the first model."""
        return next(iter(self.models.values()))


def dumps(stored: StoredPredictions) -> str:
    """JSON; floats have DIGITS significant digits."""
    first = next(iter(stored.models.values()))
    names = [field.name for field in fields(first)]
    content = {
        "form": type(first).__name__,
        "rows": stored.rows,
        "shared": {name: _plain(getattr(first, name)) for name in names if name in SHARED},
        "models": {
            model: {name: _plain(getattr(predicted, name)) for name in names if name not in SHARED}
            for model, predicted in stored.models.items()
        },
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n"


def loads(text: str) -> StoredPredictions:
    """The inverse of `dumps`."""
    content = json.loads(text)
    form = getattr(predictions, content["form"])
    return StoredPredictions(
        content["rows"],
        {name: form(**_typed(form, content["shared"] | values)) for name, values in content["models"].items()},
    )


def take(predicted: Predictions, rows: list[int]) -> Predictions:
    """The predictions for these rows only, in this order."""
    values = {field.name: getattr(predicted, field.name) for field in fields(predicted)}
    chosen = {
        name: [value[row] for row in rows] if isinstance(value, list) else value[rows]
        for name, value in values.items()
        if name != "names"
    }
    names = {"names": values["names"]} if "names" in values else {}
    form: Any = type(predicted)
    subset: Predictions = form(**chosen, **names)
    return subset


def _plain(value: Any) -> Any:
    """Arrays as lists, floats rounded."""
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.kind == "f":
        rounded = [float(f"{number:.{DIGITS}g}") for number in value.ravel().tolist()]
        return np.array(rounded).reshape(value.shape).tolist()
    return value.tolist()


def _typed(form: Any, content: dict[str, Any]) -> dict[str, Any]:
    """Lists become arrays where the form has arrays."""
    typed: dict[str, Any] = {}
    for field in fields(form):
        value = content[field.name]
        if "list[" in str(field.type):
            typed[field.name] = [[tuple(best) for best in row] for row in value] if field.name == "best" else value
        elif form is predictions.ManyLabels and field.name == "targets":
            typed[field.name] = np.array(value, dtype=bool).reshape(len(value), -1)
        elif form is predictions.Judgements and field.name == "targets":
            typed[field.name] = np.array(value, dtype=bool)
        elif form is predictions.Numbers:
            typed[field.name] = np.array(value, dtype=np.float32)
        else:
            typed[field.name] = np.array(value, dtype=TYPES.get(field.name, np.float32))
    return typed
