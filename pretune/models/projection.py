"""Projection to the vocabulary with the loss or log-probabilities in one function, a few rows at a time."""

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


def projected_distillation(
    states: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    targets: Tensor,
    teacher: tuple[Tensor, Tensor],
    *,
    share: float,
    temperature: float,
    factors: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross entropy against `targets` mixed with the divergence from a teacher (Hinton et al. 2015): sums in nats.

    teacher: ids (rows, top) int64 and log-probabilities (rows, top + 1) float32, as `projected_top` returns them. The
    tokens beyond `top` are one class, the rest, for the teacher as for the student: with the whole vocabulary as `top`
    it is empty, and the divergence KL(teacher, student) is that of the full distributions. Both are raised to the
    power 1 / `temperature` and normalised.
    Returns (1 - share) * cross entropy + share * temperature^2 * divergence, which has gradients, and both alone,
    which have none. Other shapes and all else as in `projected_cross_entropy`; without `weight`, `states` are logits.
    """
    mix, learning = (share, temperature), torch.is_grad_enabled()
    sums: tuple[Tensor, Tensor, Tensor] = _ProjectedDistillation.apply(  # type: ignore[no-untyped-call]
        states, weight, bias, targets, *teacher, factors, mix, _product_type(states), learning
    )
    return sums


def projected_top(
    states: Tensor, weight: Tensor | None, bias: Tensor | None, top: int, vocabulary: int
) -> tuple[Tensor, Tensor]:
    """The likeliest tokens of the first `vocabulary` under `states @ weight.T + bias`, without gradients.

    ids: (rows, top) int64, the likeliest first; log_probs: (rows, top + 1) float32, in nats, the last that of all
    other tokens together: minus infinity if there are none. Without `weight`, `states` are logits.
    """
    compute = _product_type(states)
    ids = torch.empty(len(states), top, dtype=torch.int64, device=states.device)
    log_probs = torch.empty(len(states), top + 1, dtype=torch.float32, device=states.device)
    with torch.autocast(states.device.type, enabled=False), torch.no_grad():
        x = states.to(compute)
        w, b = (None if tensor is None else tensor.to(compute) for tensor in (weight, bias))
        for rows in _chunks(states):
            logits = _logits(x[rows], w, b)[:, :vocabulary]
            ids[rows] = logits.topk(top).indices
            log_probs[rows] = torch.log_softmax(_classes(logits, ids[rows]), dim=-1)
    return ids, log_probs


def _logits(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
    """Logits in float32, in memory of their own."""
    return (x.clone() if w is None else functional.linear(x, w, b)).float()


def _classes(logits: Tensor, ids: Tensor) -> Tensor:
    """The logits of `ids` and of the rest as one class: (rows, top + 1). Those of `ids` become minus infinity."""
    top = logits.gather(1, ids)
    return torch.cat([top, logits.scatter_(1, ids, float("-inf")).logsumexp(1, keepdim=True)], dim=1)


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
            grad_weight, grad_bias = _gradients(ctx, weight, bias)
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
        return *_scaled(ctx, grad_loss), *[None] * 4


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


class _ProjectedDistillation(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes positional arguments only
        ctx: Any,
        states: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        targets: Tensor,
        ids: Tensor,
        log_probs: Tensor,
        factors: Tensor | None,
        mix: tuple[float, float],
        compute: torch.dtype,
        learning: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        share, temperature = mix
        with torch.autocast(states.device.type, enabled=False):
            x = states.to(compute)
            w, b = (None if tensor is None else tensor.to(compute) for tensor in (weight, bias))
            sums = states.new_zeros(2, dtype=torch.float32)
            grad_states = torch.empty_like(x)
            grad_weight, grad_bias = _gradients(ctx, weight, bias)
            for rows in _chunks(x):
                logits = _logits(x[rows], w, b)
                target = logits.gather(1, targets[rows, None])
                classes = _classes(logits, ids[rows])  # `logits` are those of the rest now
                total = classes.logsumexp(1, keepdim=True)
                log_p = torch.log_softmax(log_probs[rows] / temperature, dim=-1)
                log_q = torch.log_softmax(classes / temperature, dim=-1)
                p, q = log_p.exp(), log_q.exp()
                divergence = torch.where(p > 0, p * (log_p - log_q), 0.0).sum(1)
                losses = torch.stack([(total - target)[:, 0], divergence])
                sums += losses.sum(1) if factors is None else losses @ factors[rows]
                if not learning:
                    continue
                # By each class: softmax for the cross entropy, temperature * (q - p) for the divergence. A token of the
                # rest has its share of that class.
                grad = (1 - share) * (classes - total).exp() + share * temperature * (q - p)
                rest = classes[:, -1:].nan_to_num(neginf=0.0)  # where it is empty, all logits are minus infinity
                logits.sub_(rest).exp_().mul_(grad[:, -1:]).scatter_(1, ids[rows], grad[:, :-1])
                logits.scatter_add_(1, targets[rows, None], torch.full_like(target, share - 1))
                if factors is not None:
                    logits.mul_(factors[rows, None])
                grad_logits = logits.to(compute)
                grad_states[rows] = grad_logits if w is None else grad_logits @ w
                if grad_weight is not None:
                    grad_weight += grad_logits.T @ x[rows]
                if grad_bias is not None:
                    grad_bias += logits.sum(0)
        ctx.save_for_backward(grad_states, grad_weight, grad_bias)
        ctx.dtype = states.dtype
        cross_entropy, divergence = sums
        loss = (1 - share) * cross_entropy + share * temperature**2 * divergence
        ctx.mark_non_differentiable(cross_entropy, divergence)
        return loss, cross_entropy, divergence

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        return *_scaled(ctx, grad_loss), *[None] * 7


def _gradients(ctx: Any, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Zeros to add to, for weight and bias; None for one that is not there or is not trained."""
    return tuple(
        torch.zeros_like(tensor) if tensor is not None and needed else None
        for tensor, needed in zip(tensors, ctx.needs_input_grad[1:3], strict=True)
    )


def _scaled(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
    """The saved gradients of states, weight and bias times that of the loss."""
    grad_states, grad_weight, grad_bias = ctx.saved_tensors
    grad_weight = None if grad_weight is None else grad_weight.mul_(grad_loss)
    grad_bias = None if grad_bias is None else grad_bias * grad_loss
    return grad_states.to(ctx.dtype) * grad_loss, grad_weight, grad_bias


def _chunks(states: Tensor) -> Iterator[slice]:
    """The rows, a few at a time."""
    size = CHUNK_ON_GPU if states.is_cuda else CHUNK
    return (slice(start, start + size) for start in range(0, len(states), size))
