"""Projection to the vocabulary with cross entropy or log-probabilities in one function, a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

CHUNK = 256  # rows
CHUNK_ON_GPU = 4096  # more: every chunk reads and writes the gradient of the weight


def projected_cross_entropy(
    states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, factors: Tensor | None = None
) -> Tensor:
    """Sum of the cross entropies (nats) of `states @ weight.T + bias` against `targets`.

    states: (rows, hidden), weight: (vocabulary, hidden), bias: (vocabulary,), targets: (rows,) int64,
    factors: (rows,) float32 of the cross entropies, None for 1.
    The gradient is computed along with the loss, chunk by chunk, so that the logits of all rows never exist at once.
    A frozen weight gets none.
    Matrix products have autocast's type.
    """
    learning = torch.is_grad_enabled()
    loss: Tensor = _ProjectedCrossEntropy.apply(states, weight, bias, targets, factors, _product_type(states), learning)  # type: ignore[no-untyped-call]
    return loss


def projected_log_probs(states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """The log-probability (nats) of each target under `states @ weight.T + bias`: (rows,) float32.

    Shapes as in `projected_cross_entropy`. Here the gradient of each row is known only after the loss, so the logits
    are computed again for it, chunk by chunk, instead of being kept.
    """
    log_probs: Tensor = _ProjectedLogProbs.apply(states, weight, bias, targets, _product_type(states))  # type: ignore[no-untyped-call]
    return log_probs


def _product_type(states: Tensor) -> torch.dtype:
    """The type of matrix products: autocast's."""
    device = states.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype


class _ProjectedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes positional arguments only
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        factors: Tensor | None,
        compute: torch.dtype,
        learning: bool,
    ) -> Tensor:
        with torch.autocast(states.device.type, enabled=False):
            x, w = states.to(compute), weight.to(compute)
            b = None if bias is None else bias.to(compute)
            loss = states.new_zeros((), dtype=torch.float32)
            grad_states = torch.empty_like(x)
            grad_weight, grad_bias = (
                torch.zeros_like(tensor) if tensor is not None and needed else None
                for tensor, needed in zip((weight, bias), ctx.needs_input_grad[1:3], strict=True)
            )
            for rows in _chunks(x):
                labels = targets[rows, None]
                p = torch.log_softmax(functional.linear(x[rows], w, b), dim=-1, dtype=torch.float32)
                picked = p.gather(1, labels)
                loss -= picked.sum() if factors is None else factors[rows] @ picked[:, 0]
                if not learning:
                    continue
                p.exp_().scatter_add_(1, labels, p.new_full(labels.shape, -1.0))
                if factors is not None:
                    p.mul_(factors[rows, None])
                grad_logits = p.to(compute)
                grad_states[rows] = grad_logits @ w
                if grad_weight is not None:
                    grad_weight += grad_logits.T @ x[rows]
                if grad_bias is not None:
                    grad_bias += p.sum(0)
        ctx.save_for_backward(grad_states, grad_weight, grad_bias)
        ctx.dtype = states.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        grad_states, grad_weight, grad_bias = ctx.saved_tensors
        grad_weight = None if grad_weight is None else grad_weight.mul_(grad_loss)
        grad_bias = None if grad_bias is None else grad_bias * grad_loss
        return grad_states.to(ctx.dtype) * grad_loss, grad_weight, grad_bias, None, None, None, None


class _ProjectedLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes positional arguments only
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, compute: torch.dtype
    ) -> Tensor:
        ctx.save_for_backward(states, weight, bias, targets)
        ctx.compute = compute
        with torch.autocast(states.device.type, enabled=False):
            x, w, b = states.to(compute), weight.to(compute), None if bias is None else bias.to(compute)
            result = states.new_empty(len(states), dtype=torch.float32)
            for rows in _chunks(states):
                p = torch.log_softmax(functional.linear(x[rows], w, b), dim=-1, dtype=torch.float32)
                result[rows] = p.gather(1, targets[rows, None])[:, 0]
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, bias, targets = ctx.saved_tensors
        compute = ctx.compute
        grad_states = torch.empty_like(states)
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None  # adapters leave it frozen
        grad_bias = None if bias is None else torch.zeros_like(bias)
        with torch.autocast(states.device.type, enabled=False):
            x, w, b = states.to(compute), weight.to(compute), None if bias is None else bias.to(compute)
            for rows in _chunks(states):
                p = torch.softmax(functional.linear(x[rows], w, b), dim=-1, dtype=torch.float32)
                p.scatter_add_(1, targets[rows, None], p.new_full((len(p), 1), -1.0)).mul_(-grad[rows, None])
                grad_logits = p.to(compute)
                grad_states[rows] = (grad_logits @ w).to(states.dtype)
                if grad_weight is not None:
                    grad_weight += grad_logits.T @ x[rows]
                if grad_bias is not None:
                    grad_bias += p.sum(0)
        return grad_states, grad_weight, grad_bias, None, None


def _chunks(states: Tensor) -> Iterator[slice]:
    """The rows, a few at a time."""
    size = CHUNK_ON_GPU if states.is_cuda else CHUNK
    return (slice(start, start + size) for start in range(0, len(states), size))
