"""Language modelling as finetuning: pieces of long texts, and likelihoods."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pretune.config.params import ModelParams
from pretune.models import build, heads
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.language_modelling import LanguageModelling

TEXTS = ["number 7 is about salt", "butter " * 30, "x", "waves are salt; flour oven butter 9"]


@pytest.fixture
def objective(words):
    """Texts of which one is longer than the maximum length."""
    return LanguageModelling([{"text": text} for text in TEXTS], ObjectiveContext(words, 16, 0, None))


@pytest.fixture
def model(words, deterministic):
    """A function from a family to its smallest decoder."""

    def make(family):
        shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        shape |= {} if family == "gpt2" else {"intermediate_size": 64}
        params = ModelParams(type=family, init=None, config=shape)
        return build.new(LanguageModelling, build.config_for(params, LanguageModelling.shape(words))).eval()

    return make


def test_every_token_but_the_first_of_a_text_is_predicted_once(objective, words):
    """In pieces of the maximum length, each beginning with the last token of the one before."""
    for row, text in enumerate(TEXTS):
        ids = words(text)["input_ids"]
        pieces = [piece for number, piece in objective.pieces if number == row]
        assert max(map(len, pieces)) <= 16
        assert [token for piece in pieces for token in piece[1:]] == ids[1:]
        assert [piece[0] for piece in pieces] == [ids[0], *[piece[-1] for piece in pieces[:-1]]]
    batch = objective.batch(np.zeros(len(objective), dtype=int), np.arange(len(objective)))
    assert batch.count == sum(len(words(text)["input_ids"]) - 1 for text in TEXTS)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_likelihoods_are_those_of_the_loss(objective, model, family):
    """Summed over all rows they are the loss of all pieces; tokens and bytes are those of each text."""
    network = model(family)
    likelihoods = objective.predict(network)
    batch = objective.batch(np.zeros(len(objective), dtype=int), np.arange(len(objective)))
    heads.prepare(network)
    with torch.no_grad():
        assert float(objective.loss(network, batch)) == pytest.approx(likelihoods.nats.sum(), rel=1e-5)
    assert likelihoods.tokens.sum() == batch.count
    assert likelihoods.bytes.tolist() == [len(text) for text in TEXTS]
