"""The layer of each parameter, from its name: below all layers, in one of them, or above."""

from __future__ import annotations

import re

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

LAYER = re.compile(r"\.(?:layers?|h|blocks?)\.(\d+)\.")
BELOW = re.compile(r"(^|\.)(embeddings|layernorm_embedding|embed_positions)\.")  # embeddings and their norm


def blocks(model: nn.Module) -> list[nn.Module]:
    """The layers of a transformer, those of an encoder before those of a decoder; [] for other models."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def count(model: nn.Module) -> int:
    """Number of layers; an encoder and a decoder of n layers each count as n."""
    return 1 + max((int(match[1]) for name, _ in model.named_parameters() if (match := LAYER.search(name))), default=-1)


def layer_depths(model: nn.Module) -> dict[str, int]:
    """The layer of each parameter, from 0; -1 for embeddings, the number of layers for those above all layers."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    layers = count(model)
    depths = {}
    for name, parameter in model.named_parameters():
        layer = LAYER.search(name)
        below = id(parameter) in embeddings or BELOW.search(name)
        depths[name] = int(layer[1]) if layer else -1 if below else layers
    return depths
