"""pretrain: train a model on the corpus, without labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pretune.config.section import training_seed
from pretune.models import build
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.pretraining.table import OBJECTIVES
from pretune.objectives.registry import choose
from pretune.training import device
from pretune.training.job import Job, run_training

if TYPE_CHECKING:
    from pretune.runtime.stage import Stage, StageInputs


def pretrain(stage: Stage) -> None:
    """Train a model from random weights or from those of `model.init`; write `models/pretrained`."""
    run_training(stage, prepare(stage), out="models/pretrained")


def prepare(stage: StageInputs) -> Job:
    """The training job: model, data and number of steps."""
    params = stage.params.pretrain
    seed = training_seed(params.seed, stage.params.seed)
    device.prepare(seed, stage.params.threads)
    objective, settings = choose(OBJECTIVES, "pretrain", params, stage.params.model.type)
    inputs = objective.inputs(stage.dep("data/prepared/tokenizer"))
    context = ObjectiveContext(inputs, params.sequence_length, seed, settings)
    samples = objective.samples(stage.dep("data/prepared/corpus"), context)
    training, validation = samples.divide(params.validation_rows, stage.params.seed)
    return Job(
        model=build.first(objective, stage.params.model, inputs, stage.dep),
        inputs=inputs,
        objective=objective.of(training, context),
        validation=objective.of(validation, context) if validation else None,
        params=params,
        steps=params.steps,
        inference_config=objective.inference_config(context),
        example=objective.example(context),
        seed=seed,
    )
