"""scratch: the same model as `finetune`, but from random weights: what pretraining is measured against."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pretune.data import tokenizer
from pretune.models import build
from pretune.training import classifier, device
from pretune.training.job import Job, carry_out

if TYPE_CHECKING:
    from pretune.stage import Stage


def scratch(stage: Stage) -> None:
    """Train a new classifier on the same rows with the same settings; leave it in `models/scratch`."""
    carry_out(stage, prepare(stage), out="models/scratch", examples=["Return the absolute path of a file."])


def prepare(stage: Stage) -> Job:
    """What is to be trained, on what, for how long."""
    device.prepare(stage.params.seed, stage.params.threads)
    words = tokenizer.load(stage.dep("data/prepared/tokenizer"))
    model = build.classifier(build.config_for(stage.params.model, words), classifier.labels(stage))
    return classifier.job(stage, model, words)
