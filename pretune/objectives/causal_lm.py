"""Causal language modelling (Radford et al. 2018): predict each token from those before it in its document."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from pretune.data.corpus import Sequences
from pretune.data.packing import Packed, pack
from pretune.models import heads


@dataclass(frozen=True)
class CausalBatch:
    """positions: (predictions,) int64 into the packed tokens, each followed by its target, (predictions,) int64."""

    packed: Packed
    positions: Tensor
    targets: Tensor

    @property
    def count(self) -> int:
        """Predictions that the loss is summed over."""
        return len(self.targets)

    @property
    def tokens(self) -> int:
        """Tokens that are read."""
        return len(self.packed.input_ids)

    def to(self, device: torch.device) -> CausalBatch:
        """The same on another device."""
        return CausalBatch(
            self.packed.to(device),
            self.positions.to(device, non_blocking=True),
            self.targets.to(device, non_blocking=True),
        )


class CausalLM:
    """Batches and loss: rows of the corpus, every token but the last of each document's part predicts the next."""

    def __init__(self, corpus: Sequences) -> None:
        self.corpus = corpus

    def __len__(self) -> int:
        return len(self.corpus)

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> CausalBatch:  # noqa: ARG002 - nothing is drawn
        """These rows of the corpus."""
        ids, lengths, real = self.corpus.rows(samples)
        last = np.zeros(len(ids), dtype=bool)
        last[np.cumsum(lengths) - 1] = True
        positions = np.flatnonzero(~last & real)
        return CausalBatch(pack(ids, lengths), torch.from_numpy(positions), torch.from_numpy(ids[positions + 1]))

    def loss(self, model: PreTrainedModel, batch: CausalBatch) -> Tensor:
        """Sum of the cross entropies in nats over the predicted tokens."""
        return heads.token_loss(model, batch.packed, batch.positions, batch.targets)

    def score(self, model: PreTrainedModel, batch: CausalBatch) -> dict[str, Tensor]:
        """Sums over the predicted tokens, for validation."""
        return {"loss": self.loss(model, batch)}
