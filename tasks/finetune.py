"""finetune: the pretrained model learns from few labelled rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pretune.models import build
from pretune.objectives import labelled
from pretune.training import device, finetuning
from pretune.training.job import Job, carry_out

if TYPE_CHECKING:
    from pretune.stage import Stage


def finetune(stage: Stage) -> None:
    """Put a new head on `models/pretrained` and train it; leave the model in `models/finetuned`."""
    carry_out(stage, prepare(stage), out="models/finetuned")


def prepare(stage: Stage) -> Job:
    """What is to be trained, on what, for how long."""
    device.prepare(stage.params.seed, stage.params.threads)
    pretrained = stage.dep("models/pretrained")
    kind = labelled.objective(stage, build.model_type(pretrained))
    told = labelled.given(stage, kind, kind.inputs(pretrained))
    model, _ = build.load(kind, pretrained, told.labels)
    return finetuning.job(stage, kind, told, model)
