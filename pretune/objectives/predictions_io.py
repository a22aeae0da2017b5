"""Predictions on disk: what was said of each test row, so that models can be compared later, row by row."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from pretune.objectives import predictions
from pretune.objectives.predictions import Predictions

SHARED = ("names", "targets")  # by all models
TYPES = {"targets": np.int64, "tokens": np.int64, "bytes": np.int64, "nats": np.float64}  # of arrays; float32 else
DIGITS = 6


@dataclass(frozen=True)
class StoredPredictions:
    """rows: a name for what was asked (inputs.key); models: what each said about them."""

    rows: list[str]
    models: dict[str, Predictions]


def dumps(found: StoredPredictions) -> str:
    """JSON; numbers have DIGITS digits."""
    first = next(iter(found.models.values()))
    names = [field.name for field in fields(first)]
    content = {
        "form": type(first).__name__,
        "rows": found.rows,
        "shared": {name: _plain(getattr(first, name)) for name in names if name in SHARED},
        "models": {
            model: {name: _plain(getattr(said, name)) for name in names if name not in SHARED}
            for model, said in found.models.items()
        },
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n"


def loads(text: str) -> StoredPredictions:
    """What dumps wrote."""
    content = json.loads(text)
    form = getattr(predictions, content["form"])
    return StoredPredictions(
        content["rows"],
        {name: form(**_typed(form, content["shared"] | said)) for name, said in content["models"].items()},
    )


def take(found: Predictions, places: list[int]) -> Predictions:
    """The same of these rows only."""
    values = {field.name: getattr(found, field.name) for field in fields(found)}
    chosen = {
        name: [value[place] for place in places] if isinstance(value, list) else value[places]
        for name, value in values.items()
        if name != "names"
    }
    kept = {"names": values["names"]} if "names" in values else {}
    form: Any = type(found)
    taken: Predictions = form(**chosen, **kept)
    return taken


def _plain(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.kind == "f":
        rounded = [float(f"{each:.{DIGITS}g}") for each in value.ravel().tolist()]
        return np.array(rounded).reshape(value.shape).tolist()
    return value.tolist()


def _typed(form: Any, content: dict[str, Any]) -> dict[str, Any]:
    """Lists become arrays where the form has arrays."""
    found: dict[str, Any] = {}
    for field in fields(form):
        value = content[field.name]
        if "list[" in str(field.type):
            found[field.name] = [[tuple(best) for best in row] for row in value] if field.name == "best" else value
        elif form is predictions.ManyLabels and field.name == "targets":
            found[field.name] = np.array(value, dtype=bool).reshape(len(value), -1)
        elif form is predictions.Numbers:
            found[field.name] = np.array(value, dtype=np.float32)
        else:
            found[field.name] = np.array(value, dtype=TYPES.get(field.name, np.float32))
    return found
