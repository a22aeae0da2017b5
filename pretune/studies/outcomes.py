"""What a run of a trial leaves: learning curves, costs, and metrics on held-out rows."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pretune.config import files
from pretune.evaluation.metrics import compute
from pretune.objectives import predictions_io
from pretune.objectives.predictions import Predictions
from pretune.runtime.events import ERRORS

PRUNED = "pruned"  # the reason for which a sweep stops a trial that is worse than others
TRAINED = {  # stages whose costs count
    "pretrain": "models/pretrained", "finetune": "models/finetuned", "align": "models/aligned",
}  # fmt: skip
MEASURED = ("seconds", "memory_gb", "parameters", "trained_parameters", "device_hours", "energy_kwh")
TOTALS = ("seconds", "flops")  # sums over the trainings of a run
KEPT = 4096  # files of predictions that are not read again: their names follow from their content
Curve = list[dict[str, float]]


def read_curve(path: Path) -> Curve:
    """The rows of a learning curve, numbers only; [] if there is none."""
    if not path.is_file():
        return []
    return [{key: float(value) for key, value in row.items() if value} for row in files.read_csv(path)]


def validations(curve: Curve, metric: str) -> list[tuple[int, float]]:
    """(step, value) of each validation."""
    name = f"validation_{metric}"
    return [(int(row["step"]), row[name]) for row in curve if name in row]


def last_values(curve: Curve, chosen_by: str) -> dict[str, float]:
    """The validation metrics of the weights that were kept: the last ones, or the best by `chosen_by`."""
    rows = [row for row in curve if any(key.startswith("validation_") for key in row)]
    if not rows:
        return {}
    row, sign, name = rows[-1], 1 if chosen_by in ERRORS else -1, f"validation_{chosen_by}"

    def rank(row: dict[str, float]) -> tuple[bool, float]:
        return (True, 0.0) if math.isnan(row[name]) else (False, sign * row[name])

    if chosen_by != "last":
        valid = (row for row in rows if name in row)
        row = min(valid, key=rank, default=row)  # the first of equals, as training does
    prefix = "validation_"
    return {key.removeprefix(prefix): value for key, value in row.items() if key.startswith(prefix)}


def predictions(file: Path) -> Predictions:
    """The predictions that `pretune.studies.held_out` has written."""
    return _stored(file)[1]


@lru_cache(KEPT)
def facts_of(file: Path) -> tuple[str, list[str]]:
    """A hash of the rows that a file of predictions is about, and the names of its metrics, the headline first."""
    keys, predicted = _stored(file)
    return hashlib.sha256("\n".join(keys).encode()).hexdigest(), list(compute.metrics(predicted))


def _stored(file: Path) -> tuple[list[str], Predictions]:
    """The keys of the rows, and the predictions of the only model in a file."""
    stored = predictions_io.loads(file.read_text(encoding="utf-8"))
    (predicted,) = stored.models.values()
    return stored.rows, predicted


def values_of(file: Path) -> dict[str, float]:
    """Each metric of the predictions; `headline` is the first."""
    predicted = predictions(file)
    weights = np.ones((1, compute.count(predicted)))
    values = {name: float(metric.measure(weights)[0]) for name, metric in compute.metrics(predicted).items()}
    finite = {name: value for name, value in values.items() if np.isfinite(value)}
    return {"headline": next(iter(values.values()))} | finite


def headline_name(file: Path) -> str:
    """The name of the headline of the predictions in a file."""
    return facts_of(file)[1][0]


def last_memory(state: Path, stage: str) -> float | None:
    """Gigabytes that a training took when it last ran here; None if that is not known."""
    memory: float | None = _facts(state, stage).get("metrics", {}).get("memory_gb")
    return memory


def costs(root: Path, state: Path, kept: Path, hashes: Mapping[str, str], stages: list[str]) -> dict[str, float]:
    """What the trainings of a run cost, by `stage.name`, and the TOTALS.

    A stage that was restored costs what it did when it ran here: `kept` holds that by the hash of the model.
    """
    found: dict[str, float] = {}
    for stage in [name for name in TRAINED if name in stages]:
        md5 = hashes.get(TRAINED[stage], "")
        note, facts = kept / f"{stage}-{md5}.json", _facts(state, stage)
        if md5 and md5 in facts.get("outputs", {}).values() and "seconds" in facts["metrics"]:
            measured = {name: facts["metrics"][name] for name in MEASURED if name in facts["metrics"]}
            kept.mkdir(parents=True, exist_ok=True)
            files.write_atomically(note, json.dumps(measured))
        if note.is_file():
            found |= {f"{stage}.{name}": value for name, value in json.loads(note.read_text("utf-8")).items()}
        curve = read_curve(root / f"reports/curves/{stage}.csv")
        found[f"{stage}.flops"] = curve[-1]["flops"] if curve else 0.0
    for total in TOTALS:
        parts = [found.get(f"{stage}.{total}") for stage in TRAINED if stage in stages]
        if None not in parts:
            found[total] = sum(part for part in parts if part is not None)
    for name in ("parameters", "trained_parameters", "memory_gb"):
        own = [found[f"{stage}.{name}"] for stage in TRAINED if f"{stage}.{name}" in found]
        if own:
            found[name] = own[-1] if name != "memory_gb" else max(own)
    return found


def _facts(state: Path, stage: str) -> dict[str, Any]:
    path = state / "stages" / f"{stage}.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
