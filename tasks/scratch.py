"""scratch: the same model as `finetune`, but from random weights: what pretraining is measured against."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pretune.data import tokenizer
from pretune.models import build
from pretune.training import classifier, loop

if TYPE_CHECKING:
    from pretune.stage import Stage


def scratch(stage: Stage) -> None:
    """Train a new classifier on the same rows with the same settings; leave it in `models/scratch`."""
    loop.make_deterministic(stage.params.seed, stage.params.threads)
    words = tokenizer.load(stage.dep("data/prepared/tokenizer"))
    labels = json.loads((stage.dep("data/prepared/labelled") / "labels.json").read_text(encoding="utf-8"))
    model = build.classifier(build.config_for(stage.params.model, words), labels)
    classifier.fit(stage, model, words, labels, out="models/scratch")
