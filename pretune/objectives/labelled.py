"""The labelled rows, the objective that `finetune` names, and what a model says about them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretune.data.rows import Row, read
from pretune.errors import DataError
from pretune.models import build
from pretune.objectives.base import Finetuning, Given
from pretune.objectives.choice import choose
from pretune.objectives.finetuning import OBJECTIVES
from pretune.objectives.predictions import Predictions

if TYPE_CHECKING:
    from pretune.stage import Stage


def objective(stage: Stage, family: str) -> type[Finetuning]:
    """The class that `finetune.objective` names, for a model of type `family`."""
    return choose(OBJECTIVES, "finetune", stage.params.finetune, family)[0]


def given(stage: Stage, kind: type[Finetuning], inputs: Any) -> Given:
    """What the objective is told."""
    params = stage.params.finetune
    labels = json.loads((stage.dep("data/prepared/labelled") / "labels.json").read_text(encoding="utf-8"))
    settings = kind.Settings.model_validate(params.settings)
    return Given(inputs, params.sequence_length, stage.params.seed, settings, labels, params.label_smoothing)


def rows(stage: Stage, kind: type[Finetuning], part: str) -> list[Row]:
    """The rows of train, validation or test; DataError where the objective asks for columns that they lack."""
    found = read(stage.dep("data/prepared/labelled") / f"{part}.parquet")
    missing = [name for name in kind.columns if any(name not in row for row in found)]
    if missing:
        raise DataError(
            f"the objective {stage.params.finetune.objective} needs the columns {', '.join(kind.columns)}; "
            f"rows of {part} lack {', '.join(missing)}",
            "name another finetune.objective in params.yaml, or other data",
        )
    return found


def predictions(stage: Stage, folder: Path, part: str) -> Predictions:
    """What the model in `folder` says about the rows of train, validation or test, beside what is right."""
    kind = objective(stage, build.model_type(folder))
    told = replace(given(stage, kind, kind.inputs(folder)), temperature=build.facts(folder).get("temperature", 1.0))
    model, _ = build.load(kind, folder)
    return kind(rows(stage, kind, part), told).predict(model.eval())
