"""Attention within each sequence of a packed batch, as an implementation that transformers can call.

`model.set_attn_implementation(PACKED)` selects it. With `packed=...` tokens attend within their own
sequence only; without, it is transformers' own SDPA.
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
MATERIALIZED = 512  # tokens; up to here the matrix of scores is faster on a CPU than SDPA


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

    Tokens beyond those of `packed` are ignored; their output is zero.
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
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # (tokens, heads, size)
    if torch.is_autocast_enabled(q.device.type):  # norms and rotations of queries and keys give fp32
        q, k, v = (tensor.to(torch.get_autocast_dtype(q.device.type)) for tensor in (q, k, v))
    if q.is_cuda and dropout == 0.0 and q.dtype != torch.float32:
        k, v = (_repeated(tensor, q.shape[1], dim=1) for tensor in (k, v))
        return _flash(q, k, v, packed, scale=scale, window=sliding_window, causal=causal)[None], None
    padded = [
        _Pad.apply(packed, tensor)  # type: ignore[no-untyped-call]
        for tensor in (q, k, v)
    ]
    outputs = [
        _attend(
            bucket_q, bucket_k, bucket_v, bucket, scale=scale, dropout=dropout, window=sliding_window, causal=causal
        )
        for bucket, bucket_q, bucket_k, bucket_v in zip(packed.buckets, *padded, strict=True)
    ]
    return _Unpad.apply(packed, len(q), *outputs)[None], None  # type: ignore[no-untyped-call]


def packed_mask(*, q_length: int, kv_length: int, attention_mask: Tensor | None = None, **rest: Any) -> Tensor | None:
    """No mask without padding and cache: packed_attention needs none."""
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
    """Attention within the rows of a bucket: (rows, width, heads, size), as is the result.

    key and value may have fewer heads: each serves as many neighbouring heads of the query.
    """
    hidden = _hidden(bucket, window, query.device, causal=causal)
    wide = bucket.width > MATERIALIZED or query.is_cuda
    if not wide and dropout == 0.0:
        output: Tensor = _Attention.apply(query * scale, key, value, hidden)  # type: ignore[no-untyped-call]
        return output
    q = query.transpose(1, 2)
    k, v = (_repeated(tensor, query.shape[2], dim=2).transpose(1, 2) for tensor in (key, value))
    if wide:
        seen = None if hidden is None else ~hidden
        return functional.scaled_dot_product_attention(q, k, v, seen, dropout, scale=scale).transpose(1, 2)
    scores = torch.matmul(q * scale, k.transpose(-1, -2))
    if hidden is not None:
        scores = scores.masked_fill(hidden, float("-inf"))
    weights = drop(torch.softmax(scores, dim=-1), dropout)
    return torch.matmul(weights.to(v.dtype), v).transpose(1, 2)


def _repeated(tensor: Tensor, heads: int, dim: int) -> Tensor:
    """Keys or values, repeated along `dim` so that each of `heads` has its own."""
    shared = heads // tensor.shape[dim]
    return tensor if shared == 1 else tensor.repeat_interleave(shared, dim=dim)


def _hidden(bucket: Bucket, window: int | None, device: torch.device, *, causal: bool) -> Tensor | None:
    """Where a token may not attend to: padding, later tokens if causal, tokens `window` or more away.

    (width, width) or (rows, 1, 1 or width, width) bool. If causal, padding is hidden as it is, for it comes last.
    """
    if window is not None and window >= bucket.width:
        window = None
    if causal:
        return _outside(bucket.width, window, device, causal=True)
    if window is None:
        return bucket.padding
    outside = _outside(bucket.width, window, device, causal=False)
    if bucket.padding is None:
        return outside
    itself = torch.eye(bucket.width, dtype=torch.bool, device=device)
    return (outside | bucket.padding) & ~itself  # for padding outside every window: a softmax over nothing is 0 / 0


def _outside(width: int, window: int | None, device: torch.device, *, causal: bool) -> Tensor:
    """Where a token may not attend to in a sequence of `width` tokens: (width, width) bool."""
    positions = torch.arange(width, device=device)
    distance = positions[:, None] - positions[None, :]
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


class _Attention(torch.autograd.Function):
    """softmax(Q Kᵀ + mask) V of a bucket, of which only the softmax is kept for the gradient.

    Queries that share a key are rows of one matrix: (rows * key heads, group * width, size). The mask is where a
    product starts from, which costs less than filling the scores.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None) -> Tensor:
        q, k, v = _by_head(query, key.shape[2]), _by_head(key, key.shape[2]), _by_head(value, key.shape[2])
        transposed = k.transpose(1, 2)
        if hidden is None:
            scores = torch.bmm(q, transposed)
        else:
            scores = torch.baddbmm(_mask(hidden, query, key.shape[2]), q, transposed)
        weights = torch._softmax(scores, -1, half_to_float=False)  # autocast would make it fp32
        ctx.save_for_backward(q, k, v, weights)
        ctx.heads = query.shape[2], key.shape[2]
        return _by_token(torch.bmm(weights, v), query.shape[:3])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, weights = ctx.saved_tensors
        heads, key_heads = ctx.heads
        rows, width = gradient.shape[:2]
        g = _by_head(gradient, key_heads)
        grad_weights = torch.bmm(g, v.transpose(1, 2))
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        return (
            _by_token(torch.bmm(grad_scores, k), (rows, width, heads)),
            _by_token(torch.bmm(grad_scores.transpose(1, 2), q), (rows, width, key_heads)),
            _by_token(torch.bmm(weights.transpose(1, 2), g), (rows, width, key_heads)),
            None,
        )


def _by_head(tensor: Tensor, key_heads: int) -> Tensor:
    """(rows, width, heads, size) to (rows * key heads, heads / key heads * width, size)."""
    rows, width, heads, size = tensor.shape
    parts = tensor.reshape(rows, width, key_heads, heads // key_heads, size).permute(0, 2, 3, 1, 4)
    return parts.reshape(rows * key_heads, -1, size)


def _by_token(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of _by_head, to (*shape, size): rows, width, heads."""
    (rows, width, heads), size = shape, tensor.shape[-1]
    return tensor.view(rows, -1, width, size).transpose(1, 2).reshape(rows, width, heads, size)


def _mask(hidden: Tensor, query: Tensor, key_heads: int) -> Tensor:
    """0, and minus infinity where `hidden`: (rows * key heads, heads / key heads * width, width)."""
    rows, width, heads, _ = query.shape
    mask = query.new_zeros(hidden.shape).masked_fill_(hidden, float("-inf"))
    group = heads // key_heads
    if hidden.ndim == 2:
        return mask.repeat(group, 1).expand(rows * key_heads, -1, -1)
    return mask.expand(rows, heads, width, width).reshape(rows * key_heads, group * width, width)


class _Pad(torch.autograd.Function):
    """Packed tokens (tokens, heads, size) to one (rows, width, heads, size) per bucket.

    Each token has one place, so the gradient is a gather. Autograd's own indexing would accumulate it element
    by element.
    """

    @staticmethod
    def forward(ctx: Any, packed: Packed, tokens: Tensor) -> tuple[Tensor, ...]:
        ctx.packed, ctx.tokens = packed, len(tokens)
        return _pad(packed, tokens)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, _unpad(ctx.packed, ctx.tokens, gradients)


class _Unpad(torch.autograd.Function):
    """The inverse of _Pad: buckets to packed tokens, without the padding."""

    @staticmethod
    def forward(ctx: Any, packed: Packed, tokens: int, *padded: Tensor) -> Tensor:
        ctx.packed = packed
        return _unpad(packed, tokens, padded)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        packed = ctx.packed
        if packed.places is None:
            return None, None, *_pad(packed, gradient)
        size = sum(bucket.rows * bucket.width for bucket in packed.buckets)
        real = gradient[: len(packed.places)]
        flat = gradient.new_zeros(size, *gradient.shape[1:]).index_copy_(0, packed.places, real)
        parts = torch.split(flat, [bucket.rows * bucket.width for bucket in packed.buckets])
        return (
            None,
            None,
            *(part.view(b.rows, b.width, *part.shape[1:]) for part, b in zip(parts, packed.buckets, strict=True)),
        )


def _pad(packed: Packed, tokens: Tensor) -> tuple[Tensor, ...]:
    return tuple(
        (tokens if packed.places is None else tokens.index_select(0, bucket.index)).view(
            bucket.rows, bucket.width, *tokens.shape[1:]
        )
        for bucket in packed.buckets
    )


def _unpad(packed: Packed, tokens: int, padded: tuple[Tensor, ...]) -> Tensor:
    flat = torch.cat([part.flatten(0, 1) for part in padded]) if len(padded) > 1 else padded[0].flatten(0, 1)
    if packed.places is None:
        return flat
    unpadded = flat.new_zeros(tokens, *flat.shape[1:])
    torch.index_select(flat, 0, packed.places, out=unpadded[: len(packed.places)])
    return unpadded
