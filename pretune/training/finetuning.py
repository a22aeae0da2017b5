"""What `finetune` and `scratch` share: a model learns from the labelled rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers import PreTrainedModel

from pretune.adaptation.methods import Adaptation
from pretune.objectives import labelled
from pretune.objectives.base import Finetuning, Given
from pretune.training.job import Job

if TYPE_CHECKING:
    from pretune.stage import Stage


def job(
    stage: Stage, kind: type[Finetuning], told: Given, model: PreTrainedModel, adaptation: Adaptation | None = None
) -> Job:
    """`model` on the labelled rows, as the section `finetune` says; `adaptation` is applied to it already."""
    params = stage.params.finetune
    learnt = kind(labelled.rows(stage, kind, "train"), told)
    watched = kind(labelled.rows(stage, kind, "validation"), told) if params.evaluate_every else None
    steps = -(-params.epochs * len(learnt) // params.batch_size)
    opens = adaptation.opens(model, len(learnt) / params.batch_size) if adaptation else {}
    fitted = kind(labelled.rows(stage, kind, "validation"), told) if params.calibrate else None
    facts, example = kind.facts(told), kind.example(told)
    return Job(model, told.inputs, learnt, watched, params, steps, facts, example, opens, fitted)
