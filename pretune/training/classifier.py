"""What `finetune` and `scratch` share: a classifier learns from the labelled rows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pretune.data import rows
from pretune.objectives.classification import Classification
from pretune.training.job import Job

if TYPE_CHECKING:
    from pretune.stage import Stage


def labels(stage: Stage) -> list[str]:
    """The labels, in the order of their numbers."""
    found: list[str] = json.loads((stage.dep("data/prepared/labelled") / "labels.json").read_text(encoding="utf-8"))
    return found


def job(stage: Stage, model: PreTrainedModel, words: PreTrainedTokenizerBase) -> Job:
    """All parameters of `model` on the labelled rows, as the section `finetune` says."""
    params, names = stage.params.finetune, labels(stage)

    def part(name: str) -> Classification:
        found = rows.read(stage.dep("data/prepared/labelled") / f"{name}.parquet")
        return Classification(found, words, names, length=params.sequence_length)

    objective = part("train")
    steps = -(-params.epochs * len(objective) // params.batch_size)
    return Job(model, words, objective, part("validation") if params.evaluate_every else None, params, steps)
