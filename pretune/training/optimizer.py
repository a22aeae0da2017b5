"""Optimizers and the learning-rate schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from pretune.params import TrainingParams


def build(model: nn.Module, params: TrainingParams) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for every matrix that is no embedding and AdamW for the rest.

    Muon (Jordan et al. 2024) takes its update to AdamW's size (`match_rms_adamw`), so one
    learning rate serves both. Norms, biases and embeddings are not decayed.
    """
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for parameter in model.parameters():
        (matrices if parameter.ndim == 2 and id(parameter) not in embeddings else rest).append(parameter)
    plain = [{"params": rest, "weight_decay": 0.0}]
    if params.optimizer == "muon":
        muon = torch.optim.Muon(
            matrices, lr=params.learning_rate, weight_decay=params.weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        return [muon, _adamw(plain, params)]
    return [_adamw([{"params": matrices, "weight_decay": params.weight_decay}, *plain], params)]


def _adamw(groups: list[dict[str, object]], params: TrainingParams) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=params.learning_rate, betas=(0.9, 0.98), fused=True)


def learning_rate(step: int, steps: int, params: TrainingParams) -> float:
    """Linear from zero over the warm-up, then linear to zero at the last step."""
    warmup = max(1, round(params.warmup * steps))
    if step < warmup:
        return params.learning_rate * (step + 1) / warmup
    return params.learning_rate * (steps - step) / max(1, steps - warmup)
