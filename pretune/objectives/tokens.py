"""Shared by the objectives that predict tokens of packed sequences."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from pretune.data.loading.batch import Movable
from pretune.data.loading.varlen import Packed
from pretune.models import heads
from pretune.objectives.base import BaseObjective


@dataclass(frozen=True)
class TokenBatch(Movable):
    """Packed sequences, and what is predicted: `targets` (predictions,) int64 at `positions` (predictions,) int64.

    Positions count through the packed tokens. weights: (predictions,) float32, of the losses; None: 1 each.
    """

    packed: Packed
    positions: Tensor
    targets: Tensor
    weights: Tensor | None = None

    @property
    def count(self) -> float:
        """Predictions that the loss is summed over, by their weights."""
        return len(self.targets) if self.weights is None else float(self.weights.sum())

    @property
    def tokens(self) -> int:
        """Input tokens."""
        return len(self.packed.input_ids)


class TokenObjective(BaseObjective):
    """Cross entropy over the vocabulary at the positions of a TokenBatch."""

    def loss(self, model: PreTrainedModel, batch: TokenBatch) -> Tensor:
        """Sum of the cross entropies in nats over the predicted tokens, by their weights."""
        return heads.token_loss(model, batch.packed, batch.positions, batch.targets, batch.weights)

    def score(self, model: PreTrainedModel, batch: TokenBatch) -> dict[str, Tensor]:
        """Sums over the predicted tokens, for validation."""
        return {"loss": self.loss(model, batch)}
