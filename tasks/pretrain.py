"""pretrain: a new encoder learns from every document, without labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pretune.data import tokenizer
from pretune.data.corpus import Sequences
from pretune.models import build
from pretune.objectives.masked_lm import MaskedLM
from pretune.training import device
from pretune.training.job import Job, carry_out

if TYPE_CHECKING:
    from pretune.stage import Stage


def pretrain(stage: Stage) -> None:
    """Train a masked language model from random weights; leave it in `models/pretrained`."""
    carry_out(stage, prepare(stage), out="models/pretrained", examples=["Return the absolute [MASK] of a file."])


def prepare(stage: Stage) -> Job:
    """What is to be trained, on what, for how long."""
    params, seed = stage.params.pretrain, stage.params.seed
    device.prepare(seed, stage.params.threads)
    words = tokenizer.load(stage.dep("data/prepared/tokenizer"))
    corpus = Sequences(stage.dep("data/prepared/corpus"), params.sequence_length, int(words.pad_token_id))
    rows, held_out = corpus.divide(params.validation_rows, seed)
    return Job(
        model=build.masked_lm(build.config_for(stage.params.model, words)),
        tokenizer=words,
        objective=MaskedLM(rows, words, rate=params.mask_rate, seed=seed),
        validation=MaskedLM(held_out, words, rate=params.mask_rate, seed=seed) if held_out else None,
        params=params,
        steps=params.steps,
    )
