"""Optimizers and their parameter groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pretune.models import layers
from pretune.training.muon import Muon

if TYPE_CHECKING:
    from pretune.config.params import TrainingParams


def build(model: nn.Module, params: TrainingParams) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for every matrix that is no embedding and AdamW for the rest.

    Muon's updates have the size of AdamW's, so one learning rate serves both. Norms, biases and
    embeddings are not decayed. Each group's `scale` multiplies the learning rate: `layer_decay` to the
    power of the layers above (Clark et al. 2020).
    """
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    most, heights = layers.count(model), layers.layer_depths(model)
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            matrix = parameter.ndim == 2 and id(parameter) not in embeddings
            groups.setdefault((matrix, params.layer_decay ** (most - heights[name])), []).append(parameter)
    by_muon = params.optimizer == "muon"
    muon = _groups({key: group for key, group in groups.items() if key[0] and by_muon}, params)
    adamw = _groups({key: group for key, group in groups.items() if not (key[0] and by_muon)}, params)
    rate = params.learning_rate
    found_optimizers: list[torch.optim.Optimizer] = []
    if muon:
        found_optimizers.append(Muon(muon, lr=rate))
    if adamw:
        found_optimizers.append(torch.optim.AdamW(adamw, lr=rate, betas=(0.9, 0.98), fused=True))
    return found_optimizers


def set_rate(optimizers: list[torch.optim.Optimizer], rate: float) -> None:
    """Give every group its learning rate."""
    for group in (group for each in optimizers for group in each.param_groups):
        group["lr"] = rate * group["scale"]


def step(optimizers: list[torch.optim.Optimizer], finite: Tensor) -> None:
    """Step, unless the gradient is not finite. A GPU need not be waited for: AdamW asks it by itself."""
    on_device = finite.is_cuda and all(isinstance(each, torch.optim.AdamW) for each in optimizers)
    if on_device or bool(finite):
        for each in optimizers:
            if on_device:
                each.found_inf = (~finite).float()  # type: ignore[attr-defined]  # as torch.amp.GradScaler does
            each.step()


def materialize(optimizers: list[torch.optim.Optimizer]) -> None:
    """Have the state exist, for a checkpoint to fill it; parameters stay as they are."""
    for each in optimizers:
        rates = [group["lr"] for group in each.param_groups]
        for group in each.param_groups:
            group["lr"] = 0.0
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        each.step()
        each.zero_grad(set_to_none=True)
        for group, rate in zip(each.param_groups, rates, strict=True):
            group["lr"] = rate
        for values in each.state.values():
            for value in values.values():
                value.zero_()


def _groups(found: dict[tuple[bool, float], list[nn.Parameter]], params: TrainingParams) -> list[dict[str, Any]]:
    return [
        {"params": parameters, "weight_decay": params.weight_decay if matrix else 0.0, "scale": scale}
        for (matrix, scale), parameters in found.items()
    ]
