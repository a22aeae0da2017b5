"""Dropout (Srivastava et al. 2014) with four decisions from each random number, as drawing them is slow on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

BITS = 16  # of a decision: the rate is a multiple of 2 ** -16


class Dropout(nn.Dropout):
    """nn.Dropout by `drop`."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Dropout's own name for it
        """Drop values in training mode."""
        return drop(input, self.p) if self.training else input


def drop(values: Tensor, rate: float) -> Tensor:
    """Set a share `rate` of the values to zero and scale up the others; draws from torch's global generator."""
    limit = round(rate * 2**BITS)
    if values.is_cuda or torch.compiler.is_compiling() or not 0 < limit < 2**BITS:
        return functional.dropout(values, rate)
    drawn = torch.empty(-(-values.numel() // (64 // BITS)), dtype=torch.int64).random_(-(2**63), None)
    kept = drawn.view(torch.int16)[: values.numel()].view(values.shape) >= limit - 2 ** (BITS - 1)
    scales: Tensor = kept.to(values.dtype) * (2**BITS / (2**BITS - limit))
    return values * scales


def use_fast_dropout(model: nn.Module) -> None:
    """Replace every nn.Dropout of the model by Dropout, with its rate and mode."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout(child.p).train(child.training))
