"""finetune: train the pretrained model on the labelled rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pretune.adaptation import methods, quantization
from pretune.config.section import training_seed
from pretune.errors import GraphError
from pretune.models import build
from pretune.objectives.finetuning.labelled import LabelledData
from pretune.training import device
from pretune.training.job import Job, finetuning_job, run_training

if TYPE_CHECKING:
    from pathlib import Path

    from pretune.config.params import FinetuneParams
    from pretune.runtime.stage import Stage, StageInputs

REFERENCE, TEACHER = "data/reference", "data/teacher"  # of the stages of these names, where the graph has them


def finetune(stage: Stage) -> None:
    """Train `models/pretrained` with a new head by the method of `adaptation`; write `models/finetuned`."""
    run_training(stage, prepare(stage), out="models/finetuned")


def prepare(stage: StageInputs) -> Job:
    """The training job: model, data and number of steps."""
    return job(stage, stage.params.finetune, "finetune", stage.dep("models/pretrained"))


def job(stage: StageInputs, params: FinetuneParams, section: str, start: Path) -> Job:
    """The job that trains the model in the folder `start` as `params` say, which are called `section`."""
    adapt, seed = stage.params.adaptation, training_seed(params.seed, stage.params.seed)
    device.prepare(seed, stage.params.threads)
    declared = stage.declared("data")
    reference, teacher = (stage.dep(path) if path in declared else None for path in (REFERENCE, TEACHER))
    data = LabelledData(stage.dep("data/prepared/labelled"), params, seed, section, reference, teacher)
    objective = data.objective(build.model_type(start))
    if objective.taught and teacher is None:
        raise GraphError(
            f"{section}.objective {params.objective} learns from a teacher, but in dvc.yaml no stage asks one for it",
            "pretune init distil, or take the stage `teacher` from examples/graphs (docs/stages.md)",
        )
    context = data.context(objective, objective.inputs(start))
    adaptation = methods.choose(adapt.method, adapt.settings)
    if adapt.quantization:
        device.return_memory()
    model, new_weights = quantization.load(objective, start, adapt.quantization, context.labels)
    adaptation.apply(model, new_weights)
    return finetuning_job(data, objective, context, params, model, adaptation=adaptation)
