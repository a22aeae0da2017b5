"""Where in a model a parameter is, as its name tells: in which layer, below all of them, or above."""

from __future__ import annotations

import re

from torch import nn

LAYER = re.compile(r"\.(?:layers?|h|blocks?)\.(\d+)\.")
BELOW = re.compile(r"(^|\.)(embeddings|layernorm_embedding|embed_positions)\.")  # with the embeddings, their norm too


def count(model: nn.Module) -> int:
    """Layers; those of encoder and decoder side by side count once."""
    return 1 + max((int(found[1]) for name, _ in model.named_parameters() if (found := LAYER.search(name))), default=-1)


def layer_depths(model: nn.Module) -> dict[str, int]:
    """Of each parameter the number of its layer; -1 for embeddings, the number of layers for what is above them."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    layers = count(model)
    found = {}
    for name, parameter in model.named_parameters():
        layer = LAYER.search(name)
        below = id(parameter) in embeddings or BELOW.search(name)
        found[name] = int(layer[1]) if layer else -1 if below else layers
    return found
