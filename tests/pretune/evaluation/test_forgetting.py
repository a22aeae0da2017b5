from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from pretune.data.loading import corpus
from pretune.data.prepare.shards import Encoder
from pretune.evaluation import forgetting
from pretune.models import build
from pretune.objectives.pretraining.causal_lm import CausalLM

TEXTS = [f"number {row} is about waves and salt{' and butter' * (row % 3)}" for row in range(60)]
ROWS = [{"text": text} for text in TEXTS]


@pytest.fixture
def folder(tmp_path, words):
    """A corpus of sixty texts, as `prepare` writes it."""
    tokens, sizes = Encoder(words)(TEXTS)
    target = tmp_path / "corpus"
    target.mkdir()
    corpus.save(target, 0, tokens, np.cumsum(sizes))
    return target


@pytest.fixture
def held_out(params, folder, words):
    """A function to the texts that no training saw."""

    def texts(train, **changes):
        pretrain = params.pretrain.model_copy(update={"sequence_length": 64} | changes)
        return forgetting.held_out_texts(folder, words, train, pretrain, 0).get("", []), pretrain

    return texts


def test_without_pretraining_all_texts_but_those_of_training_rows_are_held_out(held_out):
    """Whole and unchanged, each once; a conversation is one text of the corpus."""
    assert sorted(held_out(ROWS[:50], steps=0)[0]) == sorted(TEXTS[50:])
    turns = [{"role": "user", "content": TEXTS[51]}, {"role": "assistant", "content": TEXTS[52]}]
    assert sorted(held_out([*ROWS[:50], {"messages": turns}], steps=0)[0]) == sorted(TEXTS[50:])


def test_what_pretraining_saw_is_not_held_out(held_out, folder, words):
    """Only the sequences that `pretrain.validation_rows` kept out of it; without any there are no texts."""
    found, pretrain = held_out(ROWS[:10], steps=5, validation_rows=4)
    training, _ = corpus.Sequences(folder, 64, int(words.pad_token_id)).divide(4, 0)
    seen = [
        words.decode(piece, skip_special_tokens=True)
        for row in range(len(training))
        for _, piece in training.pieces(row)
    ]
    assert found
    assert set(found).isdisjoint([*seen, *TEXTS[:10]])
    assert set(found) <= set(TEXTS)
    assert held_out([], steps=5, validation_rows=0)[0] == []
    assert "pretrain.validation_rows" in forgetting.unmeasured({}, pretrain)[0]


def test_the_size_is_bounded(held_out, monkeypatch):
    """So that it takes seconds, however large the corpus is."""
    monkeypatch.setattr(forgetting, "BYTES", 200)
    found, _ = held_out([], steps=0)
    assert 100 < sum(map(len, found)) <= 200


@pytest.fixture
def models(tmp_path, words, tiny):
    """The folders of a small Llama, and of one with other weights."""
    names = ("before", "after")
    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        build.save(build.new(CausalLM, tiny("llama")), words, tmp_path / name, {})
    return [tmp_path / name for name in names]


def test_bits_are_those_of_the_texts_and_their_increase_is_paired(models, params, words):
    """As the cross entropy of each text by itself; the same model twice has lost exactly nothing."""
    before, after = models
    found = forgetting.evaluate(before, after, {"": TEXTS}, params.evaluate, 0)
    for name, folder in zip(("before", "after"), models, strict=True):
        model = build.load(CausalLM, folder)[0].eval()
        bits = 0.0
        for text in TEXTS:
            ids = torch.tensor([words(text)["input_ids"]])
            with torch.inference_mode():
                logits = model(input_ids=ids).logits
            bits += functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum").item() / np.log(2)
        assert found[name]["value"] == pytest.approx(bits / sum(map(len, TEXTS)), abs=1e-3)
    increase = found["increase"]
    assert increase["value"] == pytest.approx(found["after"]["value"] - found["before"]["value"], abs=2e-4)
    assert increase["high"] - increase["low"] < found["after"]["high"] - found["after"]["low"]
    same = forgetting.evaluate(before, before, {"": TEXTS}, params.evaluate, 0)["increase"]
    assert (same["low"], same["value"], same["high"]) == (0, 0, 0)


def test_parts_of_a_mixture_are_held_out_and_measured_each(params, folder, words, models):
    """Each has texts of its own and an estimate on them alone; one with too few is told and not measured apart."""
    corpus.write_parts(folder, {"many": corpus.Part(40, 1.0), "some": corpus.Part(15, 1.0), "few": corpus.Part(5, 1.0)})
    pretrain = params.pretrain.model_copy(update={"sequence_length": 64, "steps": 0})
    held_out = forgetting.held_out_texts(folder, words, [], pretrain, 0)
    parts = {"many": TEXTS[:40], "some": TEXTS[40:55], "few": TEXTS[55:]}
    assert {name: sorted(texts) for name, texts in held_out.items()} == {k: sorted(v) for k, v in parts.items()}
    (told,) = forgetting.unmeasured(held_out, pretrain)
    assert told.startswith("forgetting is not measured for few: 5 texts")
    before, after = models
    found = forgetting.evaluate(before, after, held_out, params.evaluate, 0)
    alone = forgetting.evaluate(before, after, {"": held_out["some"]}, params.evaluate, 0)
    assert list(found["parts"]) == ["many", "some"]
    assert found["parts"]["some"]["texts"] == 15
    assert found["parts"]["some"]["increase"]["value"] == pytest.approx(alone["increase"]["value"], abs=1e-3)
    assert found["parts"]["some"]["increase"]["value"] != found["parts"]["many"]["increase"]["value"]
