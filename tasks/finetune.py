"""finetune: the pretrained encoder learns to classify from few labelled rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pretune.data import tokenizer
from pretune.models import build
from pretune.training import classifier, device
from pretune.training.job import Job, carry_out

if TYPE_CHECKING:
    from pretune.stage import Stage


def finetune(stage: Stage) -> None:
    """Put a new head on `models/pretrained` and train all of it; leave it in `models/finetuned`."""
    carry_out(stage, prepare(stage), out="models/finetuned", examples=["Return the absolute path of a file."])


def prepare(stage: Stage) -> Job:
    """What is to be trained, on what, for how long."""
    device.prepare(stage.params.seed, stage.params.threads)
    pretrained = stage.dep("models/pretrained")
    model = build.classifier_from(pretrained, classifier.labels(stage))
    return classifier.job(stage, model, tokenizer.load(pretrained))
