"""The predictor of embedding models: a vector for each text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from .text import Row, Text


class Vector(Text):
    """Embeds each text: its tokens' last hidden states, pooled and scaled to length 1."""

    auto = "AutoModel"
    reads: ClassVar[dict[str, str]] = {"text": "string"}
    gives: ClassVar[dict[str, str]] = {"vector": "list(double)"}

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """The embeddings: (texts, hidden) float32 on the CPU."""
        return torch.tensor([row["vector"] for row in self([{"text": text} for text in texts])])

    @override
    def answer(self, rows: Sequence[Row]) -> list[Row]:
        encoded = self.encoded(rows)
        states = self.model(**encoded).last_hidden_state.float()
        pooled = pool(states, encoded["attention_mask"], self.inference_config["pooling"])
        return [{"vector": vector} for vector in torch.nn.functional.normalize(pooled, dim=-1).tolist()]


def pool(states: Tensor, real: Any, pooling: str) -> Tensor:
    """One vector for each row of `states` (rows, longest, hidden): their mean, the first or the last of its tokens.

    real: (rows, longest), 1 at tokens, 0 at the padding after them.
    """
    if pooling == "mean":
        weights = real[..., None].to(states.dtype)
        mean: Tensor = (states * weights).sum(dim=1) / weights.sum(dim=1)
        return mean
    places = real.sum(dim=1) - 1 if pooling == "last" else torch.zeros_like(real[:, 0])
    return states[torch.arange(len(states), device=states.device), places]
