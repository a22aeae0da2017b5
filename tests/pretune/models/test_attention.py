from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from pretune.data.loading.varlen import pack
from pretune.models import attention
from pretune.models.attention import packed_attention

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=20) | st.builds(
    lambda length, count: [length] * count, st.integers(1, 40), st.integers(1, 9)
)


class Caller(nn.Module):
    """The attention layer of a model."""

    def __init__(self, *, causal):
        super().__init__()
        self.is_causal, self.num_key_value_groups = causal, 1


def one_by_one(query, key, value, lengths, *, window, causal):
    """Attention of each document by its definition: (1, heads, tokens, size) to (1, tokens, heads, size)."""
    key, value = (tensor.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for tensor in (key, value))
    outputs = []
    for q, k, v in zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True):
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        distance = torch.arange(q.shape[2])[:, None] - torch.arange(q.shape[2])
        seen = (distance >= 0) | torch.tensor(not causal)
        if window is not None:
            seen &= distance.abs() < window
        outputs.append(torch.softmax(scores.masked_fill(~seen, -torch.inf), dim=-1) @ v)
    return torch.cat(outputs, dim=2).transpose(1, 2)


@given(LENGTHS, st.none() | st.integers(1, 40), st.booleans(), st.sampled_from([1, 2, 4]), st.sampled_from([8, 512]))
def test_attention_in_a_pack_is_that_of_each_document(lengths, window, causal, key_heads, materialized):
    """Values and gradients, for any lengths, window, direction and shared keys, with both implementations."""
    draw = torch.Generator().manual_seed(sum(lengths))
    total = sum(lengths)
    inputs = [torch.randn(1, n, total, 8, generator=draw, requires_grad=True) for n in (4, key_heads, key_heads)]
    packed = pack(np.zeros(total, dtype=np.int64), np.array(lengths))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "MATERIALIZED", materialized)
        output, _ = packed_attention(Caller(causal=causal), *inputs, None, sliding_window=window, packed=packed)
    expected = one_by_one(*inputs, lengths, window=window, causal=causal)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    seed = torch.randn(expected.shape, generator=draw)
    for one, other in zip(
        torch.autograd.grad(output, inputs, seed), torch.autograd.grad(expected, inputs, seed), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("materialized", [8, 512])
@pytest.mark.parametrize("lengths", [[12, 12], [3, 12, 30]])
def test_the_scale_is_that_of_the_argument(materialized, lengths, monkeypatch):
    """`scaling` replaces one over the root of the head size."""
    monkeypatch.setattr(attention, "MATERIALIZED", materialized)
    query, key, value = torch.randn(3, 1, 2, sum(lengths), 16).unbind()
    packed = pack(np.zeros(sum(lengths), dtype=np.int64), np.array(lengths))
    arguments = {"attention_mask": None, "packed": packed}
    scaled, _ = packed_attention(Caller(causal=True), query, key, value, scaling=0.5, **arguments)
    plain, _ = packed_attention(Caller(causal=True), query * 2.0, key, value, **arguments)
    torch.testing.assert_close(scaled, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("materialized", [8, 512])
def test_dropout_drops_weights_and_keeps_their_mean(materialized, monkeypatch):
    """Draws differ; their mean is the output without dropout."""
    monkeypatch.setattr(attention, "MATERIALIZED", materialized)
    lengths = [20] * 8
    query, key, value = torch.randn(3, 1, 4, sum(lengths), 8).unbind()
    arguments = {"attention_mask": None, "packed": pack(np.zeros(sum(lengths), dtype=np.int64), np.array(lengths))}
    module = Caller(causal=False)
    plain, _ = packed_attention(module, query, key, value, **arguments)
    draws = torch.stack([packed_attention(module, query, key, value, dropout=0.2, **arguments)[0] for _ in range(300)])
    assert not torch.equal(draws[0], draws[1])
    assert float((draws.mean(dim=0) - plain).abs().mean()) < 0.03 < float((draws[0] - plain).abs().mean())


def test_short_documents_take_the_matrix_of_scores_and_long_ones_sdpa(monkeypatch):
    """Up to MATERIALIZED tokens SDPA is not called; beyond, once for each bucket."""
    calls = []
    own = functional.scaled_dot_product_attention
    monkeypatch.setattr(
        functional, "scaled_dot_product_attention", lambda *a, **k: calls.append(a[0].shape[2]) or own(*a, **k)
    )
    lengths = [3, 9, 17, 20, 33]
    inputs = torch.randn(3, 1, 2, sum(lengths), 8).unbind()
    packed = pack(np.zeros(sum(lengths), dtype=np.int64), np.array(lengths))
    packed_attention(Caller(causal=True), *inputs, None, packed=packed)
    assert calls == []
    monkeypatch.setattr(attention, "MATERIALIZED", 16)
    packed_attention(Caller(causal=True), *inputs, None, packed=packed)
    assert calls == [32, 64]
