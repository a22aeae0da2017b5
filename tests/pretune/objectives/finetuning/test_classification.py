from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from pretune.models import build, heads
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.classification import Classification
from pretune.predictor.text import Class

LABELS = ["even", "odd"]
FAMILIES = pytest.mark.parametrize("family", ["modernbert", "bert", "roberta"])


def objective(words, count, length=16):
    """Numbers as texts of different lengths, each labelled even or odd."""
    rows = [{"text": f"{n}" + " and more" * (n % 4), "label": LABELS[n % 2]} for n in range(count)]
    return Classification(rows, ObjectiveContext(words, length, 0, None, LABELS))


def batch_of(task, samples):
    """The batch of these samples."""
    return task.batch(np.zeros(len(samples), dtype=np.int64), np.array(samples))


@given(st.lists(st.integers(0, 29), min_size=1, max_size=12), st.integers(0, 5))
def test_a_batch_holds_the_samples_with_their_labels(words, samples, epoch):
    """In the order of the indices, complete, without padding, whatever the epoch."""
    task = objective(words, 30)
    assert len(task) == 30
    batch = task.batch(np.full(len(samples), epoch), np.array(samples))
    texts = words.batch_decode(batch.packed.input_ids.split(batch.packed.lengths.tolist()), skip_special_tokens=True)
    assert [int(text.split()[0]) for text in texts] == samples
    assert batch.targets.tolist() == [sample % 2 for sample in samples]
    assert (batch.count, batch.tokens) == (len(samples), sum(len(task.texts[sample]) for sample in samples))
    assert words.pad_token_id not in batch.packed.input_ids


def test_long_texts_are_cut(words):
    """No text exceeds the maximum length; a cut one still begins with [CLS] and ends with [SEP]."""
    batch = batch_of(objective(words, 4, length=5), [3, 0])
    assert batch.packed.lengths.tolist() == [5, 3]
    ids = batch.packed.input_ids.tolist()
    assert (ids[0], ids[4], ids[5], ids[7]) == (words.cls_token_id, words.sep_token_id) * 2


def test_texts_to_predict_are_padded(words, tiny):
    """No row exceeds the maximum length; a cut one still ends with [SEP]; padding is masked."""
    encoded = Class(build.new(Classification, tiny(), LABELS), words, {"length": 16}).encoded(
        [{"text": "x"}, {"text": "many words " * 50}]
    )
    assert encoded["input_ids"].shape == (2, 16)
    assert encoded["input_ids"][1, -1] == words.sep_token_id
    assert encoded["attention_mask"].sum(dim=1).tolist() == [3, 16]
    assert set(encoded["input_ids"][0, 3:].tolist()) == {words.pad_token_id}


@FAMILIES
def test_padding_does_not_change_a_prediction(words, tiny, family, monkeypatch):
    """The prediction for a text is the same alone and with a longer one, in any batch size."""
    model = build.new(Classification, tiny(family), LABELS).eval()
    texts = ["salt", "flour " * 12, "tide and harbour", "oven"]
    rows = [{"text": text} for text in texts]
    answers = Class(model, words, {"length": 32})
    together = answers.probabilities(rows)
    alone = np.concatenate([answers.probabilities([row]) for row in rows])
    monkeypatch.setattr("pretune.predictor.text.ROWS", 2)
    two_each = answers.probabilities(rows)
    assert np.allclose(together, alone, atol=1e-5)
    assert np.allclose(together, two_each, atol=1e-5)
    assert np.allclose(together.sum(dim=1), 1.0, atol=1e-6)


@FAMILIES
def test_the_loss_is_the_models_own(words, tiny, family):
    """The sum of what transformers gives for these labels on padded rows, gradients included."""
    model = build.new(Classification, tiny(family), LABELS).eval()
    task = objective(words, 8)
    batch = batch_of(task, range(8))
    texts = [f"{n}" + " and more" * (n % 4) for n in range(8)]
    rows = [{"text": text} for text in texts]
    own = 8 * model(**Class(model, words, {"length": 16}).encoded(rows), labels=batch.targets).loss
    heads.prepare(model)
    loss = task.loss(model, batch)
    assert torch.allclose(loss, own, rtol=1e-5)
    parameter = next(iter(model.parameters()))
    gradients = [torch.autograd.grad(value, parameter)[0] for value in (loss, own)]
    assert torch.allclose(*gradients, atol=1e-5)


@FAMILIES
def test_validation_counts_correct_predictions(words, tiny, family):
    """`score` gives sums: the loss that training minimises, and the number of correct predictions."""
    model = build.new(Classification, tiny(family), LABELS).eval()
    task = objective(words, 20)
    batch = batch_of(task, range(20))
    texts = [f"{n}" + " and more" * (n % 4) for n in range(20)]
    answers = Class(model, words, {"length": 16}).probabilities([{"text": text} for text in texts]).numpy()
    heads.prepare(model)
    with torch.no_grad():
        score = task.score(model, batch)
    assert score.keys() == {"loss", "accuracy"}
    assert int(score["accuracy"]) == int((answers.argmax(axis=1) == batch.targets.numpy()).sum())
    right = functional.nll_loss(torch.from_numpy(answers).log(), batch.targets, reduction="sum")
    assert score["loss"].item() == pytest.approx(right.item(), rel=1e-4)


def test_the_loss_of_an_uninformed_model_is_the_logarithm_of_the_labels(words, tiny):
    """A known value: with a head of zeros each text costs log(2)."""
    model = build.new(Classification, tiny(), LABELS).eval()
    heads.prepare(model)
    torch.nn.init.zeros_(model.classifier.weight)
    torch.nn.init.zeros_(model.classifier.bias)
    task = objective(words, 9)
    assert task.loss(model, batch_of(task, range(9))).item() == pytest.approx(9 * math.log(2), rel=1e-6)


def test_the_loss_is_summed_in_single_precision(words, tiny):
    """Also where matrix products are in half precision."""
    model = build.new(Classification, tiny(), LABELS).eval()
    heads.prepare(model)
    task = objective(words, 9)
    with torch.autocast("cpu", torch.bfloat16):
        assert task.loss(model, batch_of(task, range(9))).dtype == torch.float32


def test_a_batch_moves_to_a_device(words):
    """Texts and labels move together."""
    moved = batch_of(objective(words, 3), [0, 1]).to(torch.device("meta"))
    assert {tensor.device.type for tensor in (moved.packed.input_ids, moved.targets)} == {"meta"}
