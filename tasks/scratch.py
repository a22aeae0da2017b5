"""scratch: the same model as `finetune`, but from random weights: what pretraining is measured against."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pretune.models import build
from pretune.objectives import labelled
from pretune.training import device, finetuning
from pretune.training.job import Job, carry_out

if TYPE_CHECKING:
    from pretune.stage import Stage


def scratch(stage: Stage) -> None:
    """Train a new model on the same rows with the same settings; leave it in `models/scratch`."""
    carry_out(stage, prepare(stage), out="models/scratch")


def prepare(stage: Stage) -> Job:
    """What is to be trained, on what, for how long."""
    device.prepare(stage.params.seed, stage.params.threads)
    params = stage.params.model
    kind = labelled.objective(stage, params.type)
    told = labelled.given(stage, kind, kind.inputs(stage.dep("data/prepared/tokenizer")))
    config = build.config_for(params, kind.shape(told.inputs), source=build.source(params, stage.dep))
    return finetuning.job(stage, kind, told, build.new(kind, config, told.labels))
