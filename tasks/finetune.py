"""finetune: the pretrained encoder learns to classify from few labelled rows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pretune.data import tokenizer
from pretune.models import build
from pretune.training import classifier, loop

if TYPE_CHECKING:
    from pretune.stage import Stage


def finetune(stage: Stage) -> None:
    """Put a new head on `models/pretrained` and train all of it; leave it in `models/finetuned`."""
    loop.make_deterministic(stage.params.seed, stage.params.threads)
    pretrained = stage.dep("models/pretrained")
    words = tokenizer.load(pretrained)
    labels = json.loads((stage.dep("data/prepared/labelled") / "labels.json").read_text(encoding="utf-8"))
    model = build.classifier_from(pretrained, labels)
    classifier.fit(stage, model, words, labels, out="models/finetuned")
