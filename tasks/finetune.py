"""finetune: train the pretrained model on the labelled rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pretune.adaptation import methods
from pretune.config.section import training_seed
from pretune.models import build
from pretune.objectives.finetuning.labelled import LabelledData
from pretune.training import device
from pretune.training.job import Job, finetuning_job, run_training

if TYPE_CHECKING:
    from pretune.runtime.stage import Stage, StageInputs


def finetune(stage: Stage) -> None:
    """Train `models/pretrained` with a new head by the method of `adaptation`; write `models/finetuned`."""
    run_training(stage, prepare(stage), out="models/finetuned")


def prepare(stage: StageInputs) -> Job:
    """The training job: model, data and number of steps."""
    params, adapt = stage.params.finetune, stage.params.adaptation
    seed = training_seed(params.seed, stage.params.seed)
    device.prepare(seed, stage.params.threads)
    pretrained = stage.dep("models/pretrained")
    data = LabelledData(stage.dep("data/prepared/labelled"), params, seed)
    objective = data.objective(build.model_type(pretrained))
    context = data.context(objective, objective.inputs(pretrained))
    adaptation = methods.choose(adapt.method, adapt.settings)
    model, new_weights = build.load(objective, pretrained, context.labels)
    adaptation.apply(model, new_weights)
    dtype = build.stored_dtype(pretrained)
    return finetuning_job(data, objective, context, params, model, adaptation=adaptation, dtype=dtype)
