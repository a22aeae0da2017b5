"""Muon in bf16 or fp32, whichever the processor supports.

`torch.optim.Muon` always iterates in bf16. A processor without bf16 emulates it on one core, many times slower
than fp32: it took most of the time of a training step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pretune.training import device


class Muon(torch.optim.Muon):
    """Orthogonalised momentum (Jordan et al. 2024); bitwise equal to torch's on processors with bf16.

    Updates have the size of AdamW's (`match_rms_adamw`; Liu et al. 2025), so the same learning rates apply.
    """

    def __init__(self, params: list[dict[str, Any]], lr: float) -> None:
        super().__init__(params, lr=lr, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # no closure: the loop computes the loss
        """Update every matrix with a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        dtype = torch.bfloat16 if device.has_bf16(parameter.device) else torch.float32
        update = gradient.lerp(momentum, group["momentum"]).to(dtype)
        update = orthogonalize(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"] * 0.2 * max(parameter.shape) ** 0.5)


def orthogonalize(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Approximately U Vᵀ of a matrix U S Vᵀ, by Newton-Schulz iteration; singular values are between 0.7 and 1.2."""
    a, b, c = coefficients
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / wide.norm().clamp(min=eps)
    for _ in range(steps):
        gram = wide @ wide.T
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        wide = torch.addmm(wide, polynomial, wide, beta=a)
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T
