from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from pretune.data.loading import corpus
from pretune.models import heads
from pretune.objectives.pretraining.causal_lm import CausalLM

PADDING = 89
SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=9).filter(any)


@pytest.fixture(scope="module")
def objective(tmp_path_factory):
    """A function from lengths of documents to the objective on them, in rows of 12; a token's id is its position."""

    def make(sizes):
        folder = tmp_path_factory.mktemp("corpus")
        ends = np.cumsum(sizes)
        corpus.write(folder, [range(end - size, end) for end, size in zip(ends, sizes, strict=True)])
        return CausalLM(corpus.Sequences(folder, 12, PADDING))

    return make


@pytest.fixture
def model():
    """The smallest decoder, prepared for packed sequences."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    decoder = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("llama", vocab_size=90, num_key_value_heads=2, **shape, pad_token_id=PADDING)
    ).eval()
    heads.prepare(decoder)
    return decoder


def everything(objective):
    """The batch of all rows."""
    samples = np.arange(len(objective))
    return objective.batch(np.zeros_like(samples), samples)


@given(SIZES)
def test_a_target_is_the_next_token_of_the_same_document(objective, sizes):
    """Every token but a document's last has the next one as its target; there are no others, and no padding."""
    batch = everything(objective(sizes))
    document = np.repeat(np.arange(len(sizes)), sizes).tolist()
    expected = {(place, place + 1) for place in range(sum(sizes) - 1) if document[place] == document[place + 1]}
    sources = batch.packed.input_ids[batch.positions]
    pairs = list(zip(sources.tolist(), batch.targets.tolist(), strict=True))
    assert len(pairs) == len(set(pairs)) == batch.count
    assert set(pairs) == expected


@given(SIZES)
def test_attention_never_sees_a_target(objective, sizes):
    """Its position is after that of its source, in the same packed sequence."""
    batch = everything(objective(sizes))
    packed, positions = batch.packed, batch.positions
    sequence = torch.repeat_interleave(torch.arange(len(packed.lengths)), packed.lengths)
    assert torch.equal(sequence[positions], sequence[positions + 1])
    assert torch.equal(packed.position_ids[positions] + 1, packed.position_ids[positions + 1])


def test_documents_of_one_token_predict_nothing(objective, model):
    """Without predictions the loss is zero, and so is the gradient."""
    task = objective([1, 1, 1])
    batch = everything(task)
    assert batch.count == 0
    loss = task.loss(model, batch)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_the_loss_is_the_models_own_on_each_document(objective, model):
    """The sum of the losses that transformers computes for each document."""
    sizes = [5, 9, 2, 7]
    task = objective(sizes)
    batch = everything(task)
    own = 0.0
    for end, size in zip(np.cumsum(sizes), sizes, strict=True):
        ids = torch.arange(end - size, end)
        logits = model(input_ids=ids[None]).logits[0, :-1]
        own += functional.cross_entropy(logits, ids[1:], reduction="sum").item()
    assert task.loss(model, batch).item() == pytest.approx(own, rel=1e-5)
    with torch.no_grad():
        assert task.score(model, batch)["loss"].item() == pytest.approx(own, rel=1e-5)


def test_the_loss_of_an_uninformed_model_is_the_logarithm_of_the_vocabulary(objective, model):
    """A known value: each prediction costs log(vocabulary)."""
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    task = objective([5, 9, 2, 7])
    batch = everything(task)
    assert batch.count == 19
    assert batch.tokens == 24
    assert task.loss(model, batch).item() == pytest.approx(19 * math.log(90), rel=1e-6)


def test_a_batch_moves_to_a_device(objective):
    """Tokens, positions and targets move together."""
    moved = everything(objective([5, 3])).to(torch.device("meta"))
    assert {tensor.device.type for tensor in (moved.packed.input_ids, moved.positions, moved.targets)} == {"meta"}
