"""scratch: train the model of `finetune` from random weights, as the baseline for pretraining."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pretune.config.section import training_seed

if TYPE_CHECKING:
    from pretune.runtime.stage import Stage, StageInputs
    from pretune.training.job import Job

EMPTY_CURVE = "step,loss,learning_rate,flops\n"


def scratch(stage: Stage) -> None:
    """Train a new model on the same rows with the same settings, unless params say no; write `models/scratch`."""
    if not stage.params.scratch.trains(stage.params.model):  # torch is not even imported
        leave_out(stage)
        return
    from pretune.training.job import run_training

    run_training(stage, prepare(stage), out="models/scratch")


def leave_out(stage: Stage) -> None:
    """Write outputs that say that nothing was trained: a folder without a model, and a curve without steps."""
    folder = stage.out("models/scratch")
    folder.mkdir(parents=True)
    reason = "not trained: scratch.train is false, or it is auto and model.init names a checkpoint (params.yaml)\n"
    (folder / "README.md").write_text(reason, encoding="utf-8")
    curve = stage.out("reports/curves/scratch.csv")
    curve.write_text(EMPTY_CURVE, encoding="utf-8")


def prepare(stage: StageInputs) -> Job:
    """The training job: model, data and number of steps."""
    from pretune.models import build
    from pretune.objectives.finetuning.labelled import LabelledData
    from pretune.training import device
    from pretune.training.job import finetuning_job

    params, architecture = stage.params.finetune, stage.params.model
    seed = training_seed(params.seed, stage.params.seed)
    device.prepare(seed, stage.params.threads)
    data = LabelledData(stage.dep("data/prepared/labelled"), params, seed)
    objective = data.objective(architecture.type)
    context = data.context(objective, objective.inputs(stage.dep("data/prepared/tokenizer")))
    source = build.source(architecture, stage.dep)
    config = build.config_for(architecture, objective.shape(context.inputs), source=source)
    return finetuning_job(data, objective, context, params, build.new(objective, config, context.labels))
