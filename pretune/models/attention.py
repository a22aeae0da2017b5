"""Attention within each sequence of a packed batch, as an implementation that transformers can call.

A model is switched to it by `set_attn_implementation(PACKED)`. Given `packed=...` it stays inside
the sequences; without, it is transformers' own SDPA.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from pretune.data.packing import Bucket, Packed

PACKED = "pretune_packed"
MATERIALIZED = 512  # tokens; up to here a CPU is faster with the matrix of scores than without it


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    packed: Packed | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Attention of (1, heads, tokens, size) tensors; returns (1, tokens, heads, size)."""
    if packed is None:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **rest
        )
        return output, None
    causal = bool(getattr(module, "is_causal", False))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (each[0].transpose(0, 1) for each in (query, key, value))  # (tokens, heads, size)
    if q.shape[1] != k.shape[1]:
        k, v = (each.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for each in (k, v))
    if q.is_cuda and dropout == 0.0 and q.dtype != torch.float32:
        return _flash(q, k, v, packed, scale, sliding_window, causal=causal)[None], None
    padded = [_Spread.apply(packed, each) for each in (q, k, v)]
    outputs = [
        _attend(*parts, bucket, scale, dropout, sliding_window, causal=causal)
        for bucket, *parts in zip(packed.buckets, *padded, strict=True)
    ]
    return _Gather.apply(packed, *outputs)[None], None


def packed_mask(*_: Any, attention_mask: Tensor | None = None, **rest: Any) -> Tensor | None:
    """No mask where nothing is padded: what may be seen then follows from `packed` or `is_causal`."""
    return None if attention_mask is None else sdpa_mask(attention_mask=attention_mask, **rest)


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, packed_mask)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bucket: Bucket,
    scale: float,
    dropout: float,
    window: int | None,
    *,
    causal: bool,
) -> Tensor:
    """Attention within the rows of a bucket: (rows, width, heads, size) to the same."""
    q, k, v = (each.transpose(1, 2) for each in (query, key, value))
    hidden = _hidden(bucket, window, q.device, causal=causal)
    if bucket.width > MATERIALIZED or q.is_cuda:
        seen = None if hidden is None else ~hidden
        return functional.scaled_dot_product_attention(q, k, v, seen, dropout, scale=scale).transpose(1, 2)
    scores = torch.matmul(q * scale, k.transpose(-1, -2))
    if hidden is not None:
        scores = scores.masked_fill(hidden, float("-inf"))
    weights = functional.dropout(torch.softmax(scores, dim=-1), dropout)
    return torch.matmul(weights.to(v.dtype), v).transpose(1, 2)


def _hidden(bucket: Bucket, window: int | None, device: torch.device, *, causal: bool) -> Tensor | None:
    """What a place may not see: padding, what follows it, what is `window` or more tokens away."""
    hidden = bucket.padding
    windowed = window is not None and window < bucket.width
    if causal or windowed:
        places = torch.arange(bucket.width, device=device)
        distance = places[:, None] - places[None, :]
        outside = distance < 0 if causal else torch.zeros_like(distance, dtype=torch.bool)
        if windowed:
            outside |= distance.abs() >= window
        hidden = outside if hidden is None else hidden | outside
    return hidden


def _flash(
    query: Tensor, key: Tensor, value: Tensor, packed: Packed, scale: float, window: int | None, *, causal: bool
) -> Tensor:
    """PyTorch's own variable-length flash attention: (tokens, heads, size)."""
    from torch.nn.attention.varlen import varlen_attn

    reach = -1 if window is None else window - 1
    output = varlen_attn(
        query,
        key,
        value,
        packed.bounds,
        packed.bounds,
        packed.longest,
        packed.longest,
        scale=scale,
        window_size=(reach, 0 if causal else reach),
    )
    assert isinstance(output, Tensor)
    return output


class _Spread(torch.autograd.Function):
    """Packed tokens (tokens, heads, size) to one (rows, width, heads, size) per bucket.

    Each token has one place, so the gradient is gathered back; indexing by autograd would add it up
    one element after the other.
    """

    @staticmethod
    def forward(ctx: Any, packed: Packed, tokens: Tensor) -> tuple[Tensor, ...]:
        ctx.packed = packed
        return _spread(packed, tokens)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, _gather(ctx.packed, gradients)


class _Gather(torch.autograd.Function):
    """The way back: what _Spread makes to packed tokens; what stands at padding is dropped."""

    @staticmethod
    def forward(ctx: Any, packed: Packed, *padded: Tensor) -> Tensor:
        ctx.packed = packed
        return _gather(packed, padded)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        packed = ctx.packed
        if packed.places is None:
            return None, *_spread(packed, gradient)
        size = sum(bucket.rows * bucket.width for bucket in packed.buckets)
        flat = gradient.new_zeros(size, *gradient.shape[1:]).index_copy_(0, packed.places, gradient)
        parts = flat.split([bucket.rows * bucket.width for bucket in packed.buckets])
        return None, *(
            part.view(b.rows, b.width, *part.shape[1:]) for part, b in zip(parts, packed.buckets, strict=True)
        )


def _spread(packed: Packed, tokens: Tensor) -> tuple[Tensor, ...]:
    return tuple(
        (tokens if packed.places is None else tokens.index_select(0, bucket.index)).view(
            bucket.rows, bucket.width, *tokens.shape[1:]
        )
        for bucket in packed.buckets
    )


def _gather(packed: Packed, padded: tuple[Tensor, ...]) -> Tensor:
    flat = torch.cat([part.flatten(0, 1) for part in padded]) if len(padded) > 1 else padded[0].flatten(0, 1)
    return flat if packed.places is None else flat.index_select(0, packed.places)
