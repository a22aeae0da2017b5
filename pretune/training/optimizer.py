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
    """AdamW for all parameters, or Muon for the matrices that are no embeddings and AdamW for the rest.

    The learning rate is zero until `set_rate`; one rate serves both, for Muon's updates have the size of AdamW's.
    Norms, biases and embeddings have no weight decay. The `scale` of a group is a factor of the learning rate:
    `layer_decay` to the power of the number of layers above (Clark et al. 2020).
    """
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    top, depths = layers.count(model), layers.layer_depths(model)
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix = parameter.ndim == 2 and id(parameter) not in embeddings
            groups.setdefault((is_matrix, params.layer_decay ** (top - depths[name])), []).append(parameter)
    use_muon = params.optimizer == "muon"
    muon = _groups({key: group for key, group in groups.items() if key[0] and use_muon}, params.weight_decay)
    adamw = _groups({key: group for key, group in groups.items() if not (key[0] and use_muon)}, params.weight_decay)
    optimizers: list[torch.optim.Optimizer] = []
    if muon:
        optimizers.append(Muon(muon, lr=0.0))
    if adamw:
        optimizers.append(torch.optim.AdamW(adamw, lr=0.0, betas=(0.9, 0.98), fused=True))
    return optimizers


def set_rate(optimizers: list[torch.optim.Optimizer], rate: float) -> None:
    """Set the learning rate of every group: `rate` times its scale."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]


def step(optimizers: list[torch.optim.Optimizer], finite: Tensor) -> None:
    """Take a step if `finite`, a scalar bool. It never synchronises with a GPU if all optimizers are AdamW."""
    on_device = finite.is_cuda and all(isinstance(optimizer, torch.optim.AdamW) for optimizer in optimizers)
    if on_device or bool(finite):
        for optimizer in optimizers:
            if on_device:  # AdamW skips the step by itself
                optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]  # as torch.amp.GradScaler does
            optimizer.step()


def zero_grad(optimizers: list[torch.optim.Optimizer]) -> None:
    """Drop all gradients."""
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)


def materialize(optimizers: list[torch.optim.Optimizer]) -> None:
    """Create the optimizers' state, all zeros, for a checkpoint to be loaded into; parameters stay as they are.

    The learning rate is zero afterwards.
    """
    set_rate(optimizers, 0.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for values in optimizer.state.values():
            for value in values.values():
                value.zero_()


def _groups(parameters: dict[tuple[bool, float], list[nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups by (is a matrix, scale); only matrices have weight decay."""
    return [
        {"params": group, "weight_decay": weight_decay if is_matrix else 0.0, "scale": scale}
        for (is_matrix, scale), group in parameters.items()
    ]
