"""Encoder-decoders against transformers' own forward pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from pretune.models import seq2seq

SHAPES = {
    "t5": {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0},
    "bart": {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
             "encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_start_token_id": 2},
    "marian": {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
               "encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_start_token_id": 0,
               "max_position_embeddings": 64},
}  # fmt: skip
PAD, END = 0, 1


@pytest.fixture(params=SHAPES)
def model(request, deterministic):
    """A tiny model of each family, with a random output bias if it has one."""
    ids = {"pad_token_id": PAD, "eos_token_id": END}
    config = AutoConfig.for_model(request.param, vocab_size=100, **SHAPES[request.param], **ids)
    network = AutoModelForSeq2SeqLM.from_config(config).eval()
    if hasattr(network, "final_logits_bias"):
        network.final_logits_bias.copy_(torch.randn(1, 100))
    return network


def rows(count=5):
    """Sources and targets of different lengths."""
    draw = np.random.default_rng(0)
    return [[draw.integers(3, 100, size) for size in draw.integers(2, 20, count)] for _ in range(2)]


def test_the_loss_is_that_of_transformers(model):
    """The sum over a batch is the sum of the losses of the model's own forward pass on each row."""
    sources, targets = rows()
    batch = seq2seq.batch(sources, targets, padding=PAD)
    with torch.no_grad():
        loss = seq2seq.token_loss(model, batch)
        alone = [
            model(input_ids=torch.from_numpy(a)[None], labels=torch.from_numpy(b)[None]).loss * len(b)
            for a, b in zip(sources, targets, strict=True)
        ]
    assert batch.count == sum(map(len, targets))
    assert batch.tokens == sum(map(len, sources)) + batch.count
    assert float(loss) == pytest.approx(float(sum(alone)), rel=1e-5)


def test_the_gradient_is_that_of_transformers(model):
    """For every parameter."""
    sources, targets = rows(1)
    batch = seq2seq.batch(sources, targets, padding=PAD)
    seq2seq.token_loss(model, batch).backward()
    mine = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    (model(input_ids=torch.from_numpy(sources[0])[None], labels=torch.from_numpy(targets[0])[None]).loss
     * batch.count).backward()  # fmt: skip
    theirs = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    assert mine.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert torch.allclose(mine[name], gradient, rtol=1e-3, atol=1e-5), name


def test_the_cost_of_a_batch_can_be_estimated_without_data(model):
    """The loss reads no values of tensors."""
    from torch._subclasses import FakeTensorMode

    from pretune.data.loading.batch import map_tensors

    sources, targets = rows()
    batch = seq2seq.batch(sources, targets, padding=PAD)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    batch = map_tensors(batch, mode.from_tensor)
    with mode:
        assert seq2seq.token_loss(model, batch).shape == ()
