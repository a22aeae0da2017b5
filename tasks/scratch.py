"""scratch: train the model of `finetune` from random weights, as the baseline for pretraining."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pretune.config.section import training_seed
from pretune.models import build
from pretune.objectives.finetuning.labelled import LabelledData
from pretune.training import device
from pretune.training.job import Job, finetuning_job, run_training

if TYPE_CHECKING:
    from pretune.runtime.stage import Stage, StageInputs


def scratch(stage: Stage) -> None:
    """Train a new model on the same rows with the same settings; write `models/scratch`."""
    run_training(stage, prepare(stage), out="models/scratch")


def prepare(stage: StageInputs) -> Job:
    """The training job: model, data and number of steps."""
    params, architecture = stage.params.finetune, stage.params.model
    seed = training_seed(params.seed, stage.params.seed)
    device.prepare(seed, stage.params.threads)
    data = LabelledData(stage.dep("data/prepared/labelled"), params, seed)
    objective = data.objective(architecture.type)
    context = data.context(objective, objective.inputs(stage.dep("data/prepared/tokenizer")))
    source = build.source(architecture, stage.dep)
    config = build.config_for(architecture, objective.shape(context.inputs), source=source)
    return finetuning_job(data, objective, context, params, build.new(objective, config, context.labels))
