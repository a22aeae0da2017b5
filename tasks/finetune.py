"""finetune: the pretrained model learns from few labelled rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pretune.adaptation import methods
from pretune.models import build
from pretune.objectives import labelled
from pretune.training import device, finetuning
from pretune.training.job import Job, carry_out

if TYPE_CHECKING:
    from pretune.stage import Stage


def finetune(stage: Stage) -> None:
    """Train what `adaptation` says of `models/pretrained`, with a new head; leave `models/finetuned`."""
    carry_out(stage, prepare(stage), out="models/finetuned")


def prepare(stage: Stage) -> Job:
    """What is to be trained, on what, for how long."""
    device.prepare(stage.params.seed, stage.params.threads)
    pretrained = stage.dep("models/pretrained")
    kind = labelled.objective(stage, build.model_type(pretrained))
    told = labelled.given(stage, kind, kind.inputs(pretrained))
    chosen = methods.choose(stage.params.adaptation.method, stage.params.adaptation.settings)
    model, new = build.load(kind, pretrained, told.labels)
    chosen.apply(model, new)
    return finetuning.job(stage, kind, told, model, chosen)
