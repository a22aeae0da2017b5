"""pretrain: train a model on the corpus, without labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pretune.config.section import training_seed
from pretune.data.loading.corpus import Sequences
from pretune.models import build, fit, weights
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.pretraining.table import OBJECTIVES
from pretune.objectives.registry import choose
from pretune.training import device, mixture
from pretune.training.job import Job, process_group, run_training, write_learning_curve
from pretune.training.state import State

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedConfig

    from pretune.runtime.stage import Stage, StageInputs


def pretrain(stage: Stage) -> None:
    """Train a model from random weights or from those of `model.init`; write `models/pretrained`."""
    if not _take_over(stage):
        job = prepare(stage)
        _tell_cut(stage, job)
        run_training(stage, job, out="models/pretrained")


def _take_over(stage: Stage) -> bool:
    """Without steps, write the checkpoint as it is, which is faster than loading it; False if it has to be loaded."""
    source = build.source(stage.params.model, stage.dep)
    if stage.params.pretrain.steps or source is None:
        return False
    objective, context, config = _checkpoint(stage, source)
    if not build.is_whole(objective, source, config):
        return False
    with process_group(stage.key) as world:
        if world.rank:
            return True
    out = stage.out("models/pretrained")
    parameters = build.take_over(source, config, context.inputs, out, objective.inference_config(context))
    write_learning_curve(stage.out("reports/curves/pretrain.csv"), State(), 0)
    stage.run.metrics({"epochs": 0.0, "parameters": parameters, "flops": 0, "trained_parameters": 0})
    stage.model("models/pretrained", [objective.example(context)])
    return True


def link(stage: StageInputs, folder: Path) -> None:
    """Write to `folder` what pretraining without steps makes of the checkpoint, its weights as links: for a dry run.

    Weights that the checkpoint lacks are missing.
    """
    source = build.source(stage.params.model, stage.dep)
    assert source is not None
    objective, context, config = _checkpoint(stage, source)
    build.take_over(source, config, context.inputs, folder, objective.inference_config(context), place=weights.link)


def _checkpoint(stage: StageInputs, source: Path | str) -> tuple[type[Any], ObjectiveContext, PreTrainedConfig]:
    """The pretraining objective and its context, and the configuration of the model that begins as `source`."""
    params, seed = stage.params.pretrain, training_seed(stage.params.pretrain.seed, stage.params.seed)
    objective, settings = choose(OBJECTIVES, "pretrain", params, stage.params.model.type)
    inputs = objective.inputs(stage.dep("data/prepared/tokenizer"))
    context = ObjectiveContext(inputs, params.sequence_length, seed, settings)
    return objective, context, build.config_for(stage.params.model, objective.shape(inputs), source)


def _tell_cut(stage: Stage, job: Job) -> None:
    """Warn where layers of the checkpoint are left out: few mean to, and the model is another one."""
    source = build.source(stage.params.model, stage.dep)
    if source is not None and (layers := fit.left_out(build.configuration(source), job.model.config)):
        stage.warn(f"model.config.num_hidden_layers: the last {layers} layers of the checkpoint are left out")


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
    mixed = isinstance(training, Sequences) and params.steps > 0
    watched = validation.by_part() if mixed and validation else {}
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
        mixture=mixture.of_corpus(training) if mixed else None,
        validation_parts={name: objective.of(part, context) for name, part in watched.items() if len(part)},
    )
