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

from pretune.data.loading.varlen import Bucket, Packed
from pretune.models.dropout import drop

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
    """Attention of (1, heads, tokens, size) tensors; returns (1, tokens, heads, size).

    Tokens beyond those of `packed` take no part and get zeros.
    """
    causal = bool(getattr(module, "is_causal", False))
    if packed is None:
        if attention_mask is None and sliding_window is not None and sliding_window < query.shape[2]:
            attention_mask = ~_outside(query.shape[2], sliding_window, query.device, causal=causal)
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **rest
        )
        return output, None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (each[0].transpose(0, 1) for each in (query, key, value))  # (tokens, heads, size)
    if torch.is_autocast_enabled(q.device.type):  # norms and rotations of queries and keys give fp32
        q, k, v = (each.to(torch.get_autocast_dtype(q.device.type)) for each in (q, k, v))
    if q.shape[1] != k.shape[1]:
        k, v = (each.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for each in (k, v))
    if q.is_cuda and dropout == 0.0 and q.dtype != torch.float32:
        return _flash(q, k, v, packed, scale=scale, window=sliding_window, causal=causal)[None], None
    padded = [
        _Spread.apply(packed, each)  # type: ignore[no-untyped-call]
        for each in (q, k, v)
    ]
    outputs = [
        _attend(each_q, each_k, each_v, bucket, scale=scale, dropout=dropout, window=sliding_window, causal=causal)
        for bucket, each_q, each_k, each_v in zip(packed.buckets, *padded, strict=True)
    ]
    return _Gather.apply(packed, len(q), *outputs)[None], None  # type: ignore[no-untyped-call]


def packed_mask(*, q_length: int, kv_length: int, attention_mask: Tensor | None = None, **rest: Any) -> Tensor | None:
    """No mask where nothing is padded or cached: packed_attention then knows what may be seen."""
    if attention_mask is None and q_length == kv_length:
        return None
    mask: Tensor | None = sdpa_mask(q_length=q_length, kv_length=kv_length, attention_mask=attention_mask, **rest)
    return mask


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, packed_mask)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bucket: Bucket,
    *,
    scale: float,
    dropout: float,
    window: int | None,
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
    weights = drop(torch.softmax(scores, dim=-1), dropout)
    return torch.matmul(weights.to(v.dtype), v).transpose(1, 2)


def _hidden(bucket: Bucket, window: int | None, device: torch.device, *, causal: bool) -> Tensor | None:
    """What a place may not see: padding, what follows it, what is `window` or more tokens away."""
    if window is not None and window >= bucket.width:
        window = None
    if window is None and not causal:
        return bucket.padding
    outside = _outside(bucket.width, window, device, causal=causal)
    if bucket.padding is None:
        return outside
    itself = torch.eye(bucket.width, dtype=torch.bool, device=device)
    return (outside | bucket.padding) & ~itself  # padding beyond the window of all tokens would see nothing: 0 / 0


def _outside(width: int, window: int | None, device: torch.device, *, causal: bool) -> Tensor:
    """What is not seen of a sequence of `width` tokens: (width, width) bool."""
    places = torch.arange(width, device=device)
    distance = places[:, None] - places[None, :]
    outside = distance < 0 if causal else torch.zeros_like(distance, dtype=torch.bool)
    return outside if window is None else outside | (distance.abs() >= window)


def _flash(
    query: Tensor, key: Tensor, value: Tensor, packed: Packed, *, scale: float, window: int | None, causal: bool
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
        ctx.packed, ctx.tokens = packed, len(tokens)
        return _spread(packed, tokens)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, _gather(ctx.packed, ctx.tokens, gradients)


class _Gather(torch.autograd.Function):
    """The way back: what _Spread makes to packed tokens; what stands at padding is dropped."""

    @staticmethod
    def forward(ctx: Any, packed: Packed, tokens: int, *padded: Tensor) -> Tensor:
        ctx.packed = packed
        return _gather(packed, tokens, padded)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        packed = ctx.packed
        if packed.places is None:
            return None, None, *_spread(packed, gradient)
        size = sum(bucket.rows * bucket.width for bucket in packed.buckets)
        real = gradient[: len(packed.places)]
        flat = gradient.new_zeros(size, *gradient.shape[1:]).index_copy_(0, packed.places, real)
        parts = torch.split(flat, [bucket.rows * bucket.width for bucket in packed.buckets])
        return (
            None,
            None,
            *(part.view(b.rows, b.width, *part.shape[1:]) for part, b in zip(parts, packed.buckets, strict=True)),
        )


def _spread(packed: Packed, tokens: Tensor) -> tuple[Tensor, ...]:
    return tuple(
        (tokens if packed.places is None else tokens.index_select(0, bucket.index)).view(
            bucket.rows, bucket.width, *tokens.shape[1:]
        )
        for bucket in packed.buckets
    )


def _gather(packed: Packed, tokens: int, padded: tuple[Tensor, ...]) -> Tensor:
    flat = torch.cat([part.flatten(0, 1) for part in padded]) if len(padded) > 1 else padded[0].flatten(0, 1)
    if packed.places is None:
        return flat
    found = flat.new_zeros(tokens, *flat.shape[1:])
    torch.index_select(flat, 0, packed.places, out=found[: len(packed.places)])
    return found
