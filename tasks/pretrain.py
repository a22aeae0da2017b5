"""pretrain: a new encoder learns from every document, without labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pretune.data import tokenizer
from pretune.data.corpus import Sequences
from pretune.models import build
from pretune.objectives.masked_lm import MaskedLM
from pretune.training import curve, loop

if TYPE_CHECKING:
    from pretune.stage import Stage


def pretrain(stage: Stage) -> None:
    """Train a masked language model from random weights; leave it in `models/pretrained`."""
    params = stage.params.pretrain
    loop.make_deterministic(stage.params.seed, stage.params.threads)
    words = tokenizer.load(stage.dep("data/prepared/tokenizer"))
    rows = Sequences(stage.dep("data/prepared/corpus"), params.sequence_length, stage.params.seed)
    model = build.masked_lm(build.config_for(stage.params.model, words))

    objective = MaskedLM(rows, words, params.batch_size, params.mask_rate)
    records = loop.train(model, objective, params, params.steps, stage.reporter(params.steps))

    curve.write(stage.out("reports/curves/pretrain.csv"), records)
    build.save(model, words, stage.out("models/pretrained"))
    stage.run.metrics(
        {
            "train_loss": records[-1].loss,
            "epochs": params.steps * params.batch_size / len(rows),
            "parameters": model.num_parameters(),
        }
    )
    stage.model("models/pretrained", examples=["Return the absolute [MASK] of a file."])
