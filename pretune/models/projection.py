"""Projection to the vocabulary and cross entropy in one, a few rows at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

CHUNK = 256  # rows; on a GPU more, for the gradient of the weight is read and written with each chunk
CHUNK_ON_GPU = 4096


def projected_cross_entropy(states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Sum of the cross entropies (nats) of `states @ weight.T + bias` against `targets`.

    states: (rows, hidden), weight: (vocabulary, hidden), bias: (vocabulary,), targets: (rows,) int64.
    The gradient is computed along with the loss, chunk by chunk, so that the logits of all rows
    never exist at once. Matrix products are in the type that autocast says.
    """
    device = states.device.type
    compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
    learning = torch.is_grad_enabled()
    loss: Tensor = _ProjectedCrossEntropy.apply(states, weight, bias, targets, compute, learning)  # type: ignore[no-untyped-call]
    return loss


class _ProjectedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - autograd hands over positions only
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        compute: torch.dtype,
        learning: bool,
    ) -> Tensor:
        with torch.autocast(states.device.type, enabled=False):
            x, w = states.to(compute), weight.to(compute)
            b = None if bias is None else bias.to(compute)
            loss = states.new_zeros((), dtype=torch.float32)
            of_states = torch.empty_like(x)
            of_weight, of_bias = torch.zeros_like(weight), None if bias is None else torch.zeros_like(bias)
            chunk = CHUNK_ON_GPU if x.is_cuda else CHUNK
            for start in range(0, len(x), chunk):
                rows = slice(start, start + chunk)
                right = targets[rows, None]
                p = torch.log_softmax(functional.linear(x[rows], w, b), dim=-1, dtype=torch.float32)
                loss -= p.gather(1, right).sum()
                if not learning:
                    continue
                p.exp_().scatter_add_(1, right, p.new_full(right.shape, -1.0))
                of_logits = p.to(compute)
                of_states[rows] = of_logits @ w
                of_weight += of_logits.T @ x[rows]
                if of_bias is not None:
                    of_bias += p.sum(0)
        ctx.save_for_backward(of_states, of_weight, of_bias)
        ctx.dtype = states.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, of_loss: Tensor) -> tuple[Tensor | None, ...]:
        of_states, of_weight, of_bias = ctx.saved_tensors
        of_bias = None if of_bias is None else of_bias * of_loss
        return of_states.to(ctx.dtype) * of_loss, of_weight.mul_(of_loss), of_bias, None, None, None
