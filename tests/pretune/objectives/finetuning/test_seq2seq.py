"""Sequence to sequence: batches and generation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pretune.config.params import ModelParams
from pretune.models import build
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.seq2seq import Seq2Seq

FAMILIES = pytest.mark.parametrize("family", ["t5", "bart", "marian"])
SHAPES = {
    "t5": {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2},
    "bart": {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
             "encoder_attention_heads": 2, "decoder_attention_heads": 2},
}  # fmt: skip
SHAPES["marian"] = SHAPES["bart"] | {"d_model": 64, "scale_embedding": True}


def rows(count=7):
    """Texts of different lengths with their targets."""
    return [
        {"text": f"number {n} is about" + " salt" * (n % 4), "target": f"salt {n}" * (1 + n % 3)} for n in range(count)
    ]


def objective(words, beams=1, target_length=8):
    """Settings as in params.yaml."""
    settings = Seq2Seq.Settings(target_length=target_length, beams=beams)
    return Seq2Seq(rows(), ObjectiveContext(words, 12, 0, settings, []))


@pytest.fixture
def model(words, deterministic):
    """A function from a family to its smallest model, a dropout-free one."""

    def make(family):
        dropout = {"dropout_rate": 0.0} if family == "t5" else {"dropout": 0.0}
        params = ModelParams(type=family, init=None, config=SHAPES[family] | dropout)
        return build.new(Seq2Seq, build.config_for(params, Seq2Seq.shape(words))).eval()

    return make


def test_a_batch_holds_texts_and_targets(words):
    """In the order of the indices; both have the tokenizer's special tokens, and are cut at their own lengths."""
    task = objective(words)
    batch = task.batch(np.zeros(3, dtype=int), np.array([5, 0, 2]))
    texts = words.batch_decode(batch.input_ids, skip_special_tokens=True)
    assert [text.split()[1] for text in texts] == ["5", "0", "2"]
    assert batch.target_ids.flatten()[batch.positions].tolist() == [
        token for sample in (5, 0, 2) for token in task.targets[sample]
    ]
    assert max(map(len, task.sources)) <= 12
    assert max(map(len, task.targets)) == 8
    assert all(ids[-1] == words.sep_token_id for ids in (*task.sources, *task.targets))


@FAMILIES
def test_an_overfitted_model_generates_its_targets(words, model, family):
    """By greedy and beam search: training and generation agree on start, shift and end of a target."""
    task, network = objective(words, target_length=16), model(family).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3 if family == "marian" else 5e-3)
    batch = task.batch(np.zeros(7, dtype=int), np.arange(7))
    for _ in range(400):
        loss = task.loss(network, batch) / batch.count
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.02:
            break
    for beams in (1, 3):
        predictions = objective(words, beams, target_length=16).predict(network.eval())
        assert predictions.targets == [row["target"] for row in rows()]
        assert predictions.predicted == predictions.targets


@pytest.mark.parametrize("beams", [1, 3])
def test_targets_are_searched_with_as_many_beams_and_tokens_as_the_settings_say(words, model, monkeypatch, beams):
    """From texts that are cut as in training."""
    network, asked = model("t5"), []
    generate = network.generate
    monkeypatch.setattr(network, "generate", lambda **settings: asked.append(settings) or generate(**settings))
    long = [{"text": "salt " * 20, "target": "salt " * 20}]
    task = Seq2Seq(long, ObjectiveContext(words, 12, 0, Seq2Seq.Settings(target_length=5, beams=beams), []))
    task.predict(network)
    assert {(one["num_beams"], one["max_new_tokens"]) for one in asked} == {(beams, 5)}
    assert asked[0]["input_ids"].tolist() == [task.sources[0].tolist()]
    assert (len(task.sources[0]), len(task.targets[0])) == (12, 5)
