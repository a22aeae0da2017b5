from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pretune.data.documents import Document
from pretune.models import build
from pretune.objectives import classification
from pretune.objectives.classification import Classification

LABELS = ["even", "odd"]


def objective(words, count, rows, seed=0):
    """Numbers as texts, each labelled even or odd."""
    documents = [Document(f"{n}", LABELS[n % 2]) for n in range(count)]
    return Classification(documents, words, LABELS, rows=rows, length=16, seed=seed)


def texts(words, batch):
    """The texts that a batch shows."""
    return words.batch_decode(batch.input_ids, skip_special_tokens=True)


@given(count=st.integers(1, 30), rows=st.integers(1, 12), epoch=st.integers(0, 3), seed=st.integers(0, 3))
def test_an_epoch_shows_every_row_once(words, count, rows, epoch, seed):
    """The batches of an epoch hold each row once, with its own label."""
    task = objective(words, count, rows, seed)
    steps = range(epoch * task.steps_per_epoch, (epoch + 1) * task.steps_per_epoch)
    batches = [task.batch(step) for step in steps]
    seen = [text for batch in batches for text in texts(words, batch)]
    assert sorted(map(int, seen)) == list(range(count))
    assert [int(text) % 2 for text in seen] == [target for batch in batches for target in batch.targets.tolist()]


def test_a_batch_depends_on_seed_and_step_alone(words):
    """A resumed run gets the same rows; another epoch or seed shows them in another order."""
    fresh, used = objective(words, 30, 8), objective(words, 30, 8)
    used.batch(0)
    assert torch.equal(fresh.batch(5).input_ids, used.batch(5).input_ids)
    assert texts(words, fresh.batch(0)) != texts(words, fresh.batch(4))
    assert texts(words, fresh.batch(0)) != texts(words, objective(words, 30, 8, seed=1).batch(0))


def test_long_texts_are_cut_and_short_ones_padded(words):
    """No row is longer than asked for; a cut one still ends with [SEP]; padding is masked."""
    encoded = classification.encode(words, ["x", "many words " * 50], 16)
    assert encoded["input_ids"].shape == (2, 16)
    assert encoded["input_ids"][1, -1] == words.sep_token_id
    assert encoded["attention_mask"].sum(dim=1).tolist() == [3, 16]
    assert set(encoded["input_ids"][0, 3:].tolist()) == {words.pad_token_id}


@pytest.mark.parametrize("family", ["modernbert", "bert", "roberta"])
def test_padding_does_not_change_an_answer(words, tiny, family):
    """A text is answered alike alone and beside a longer one, in any batch size."""
    model = build.classifier(tiny(family), LABELS).eval()
    asked = ["salt", "flour " * 12, "tide and harbour", "oven"]
    together = classification.probabilities(model, words, asked, 32)
    alone = np.concatenate([classification.probabilities(model, words, [text], 32) for text in asked])
    two_each = classification.probabilities(model, words, asked, 32, rows=2)
    assert np.allclose(together, alone, atol=1e-5)
    assert np.allclose(together, two_each, atol=1e-5)
    assert np.allclose(together.sum(axis=1), 1.0, atol=1e-6)


def test_the_loss_is_the_models_own(words, tiny):
    """The same number that transformers gives for these labels."""
    model = build.classifier(tiny(), LABELS).eval()
    task = objective(words, 8, 8)
    batch = task.batch(0)
    own = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.targets).loss
    assert torch.allclose(task.loss(model, batch), own)
