"""pretrain: a model learns from every document, without labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pretune.models import build
from pretune.objectives.base import Given
from pretune.objectives.choice import choose
from pretune.objectives.pretraining import OBJECTIVES
from pretune.training import device
from pretune.training.job import Job, carry_out

if TYPE_CHECKING:
    from pretune.stage import Stage


def pretrain(stage: Stage) -> None:
    """Train a model from random weights, or from those of `model.init`; leave it in `models/pretrained`."""
    carry_out(stage, prepare(stage), out="models/pretrained")


def prepare(stage: Stage) -> Job:
    """What is to be trained, on what, for how long."""
    params, seed = stage.params.pretrain, stage.params.seed
    device.prepare(seed, stage.params.threads)
    kind, settings = choose(OBJECTIVES, "pretrain", params, stage.params.model.type)
    told = Given(kind.inputs(stage.dep("data/prepared/tokenizer")), params.sequence_length, seed, settings)
    rows, held_out = kind.samples(stage.dep("data/prepared/corpus"), told).divide(params.validation_rows, seed)
    return Job(
        model=build.first(kind, stage.params.model, told.inputs, stage.dep),
        inputs=told.inputs,
        objective=kind.of(rows, told),
        validation=kind.of(held_out, told) if held_out else None,
        params=params,
        steps=params.steps,
        facts=kind.facts(told),
        example=kind.example(told),
    )
