"""Causal language modelling (Radford et al. 2018): predict each token from those before it in its document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, PreTrainedModel

from pretune.data.corpus import Sequences
from pretune.data.packing import Packed, pack
from pretune.models import build, heads
from pretune.objectives.base import Given, Pretraining


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


class CausalLM(Pretraining):
    """Batches and loss: rows of the corpus, every token but the last of each document's part predicts the next."""

    auto = AutoModelForCausalLM
    answers = "continued"

    def __init__(self, corpus: Sequences) -> None:
        self.corpus = corpus

    @classmethod
    def of(cls, samples: Sequences, given: Given) -> Self:  # noqa: ARG003 - nothing is drawn
        """See Pretraining."""
        return cls(samples)

    @classmethod
    def families(cls) -> list[str]:
        """Decoders alone: built by the same Auto class, an encoder would see what it is to predict."""
        others = build.families(AutoModelForMaskedLM) | build.families(AutoModelForSeq2SeqLM)
        return sorted(build.families(cls.auto) - others)

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
