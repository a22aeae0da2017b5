"""Masked language modelling (Devlin et al. 2019): predict the tokens that were hidden.

The same number of tokens is hidden in every row, so shapes never change, and the projection to
the vocabulary, the largest part of a small model, is computed at those positions only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor
from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM, PreTrainedModel, PreTrainedTokenizerBase

from pretune.data.chance import uniform
from pretune.data.corpus import Sequences
from pretune.data.packing import Packed, pack
from pretune.data.rows import Row
from pretune.models import build, heads
from pretune.objectives.base import Given, Pretraining
from pretune.settings import Section

KEPT, RANDOM = 0.1, 0.1  # of the hidden tokens: shown as they are, replaced by a random one
WHERE, HOW, WHICH = 1, 2, 3  # what a number is drawn for


@dataclass(frozen=True)
class MaskedBatch:
    """positions: (hidden,) int64 into the packed tokens; targets: (hidden,) int64."""

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

    def to(self, device: torch.device) -> MaskedBatch:
        """The same on another device."""
        return MaskedBatch(
            self.packed.to(device),
            self.positions.to(device, non_blocking=True),
            self.targets.to(device, non_blocking=True),
        )


class MaskedLM(Pretraining):
    """Batches and loss; what is hidden in a sample is a pure function of (seed, epoch, sample)."""

    auto = AutoModelForMaskedLM
    answers = "filled"

    class Settings(Section):
        """mask_rate: share of the tokens to predict."""

        mask_rate: Annotated[float, Field(gt=0, lt=1)]

    def __init__(self, corpus: Sequences, tokenizer: PreTrainedTokenizerBase, *, rate: float, seed: int) -> None:
        self.corpus, self.seed = corpus, seed
        self.hidden = max(1, round(rate * corpus.length))
        self.mask_id = int(tokenizer.mask_token_id)
        self.special = len(tokenizer.all_special_ids)
        self.vocabulary_size = len(tokenizer)

    @classmethod
    def families(cls) -> list[str]:
        """Encoders alone, though bart and others are in the same Auto class."""
        return sorted(build.families(cls.auto) - build.families(AutoModelForSeq2SeqLM))

    @classmethod
    def of(cls, samples: Sequences, given: Given) -> Self:
        """See Pretraining."""
        return cls(samples, given.inputs, rate=given.settings.mask_rate, seed=given.seed)

    @classmethod
    def example(cls, given: Given) -> Row:
        """See Kind."""
        return {"text": f"Return the absolute {given.inputs.mask_token} of a file."}

    def __len__(self) -> int:
        return len(self.corpus)

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> MaskedBatch:
        """These rows of the corpus, each in its epoch, with a part of their tokens hidden."""
        ids, lengths, real = self.corpus.rows(samples)
        draw = uniform((self.seed, WHERE), epochs, samples, self.corpus.length)
        order = np.argsort(np.where(real.reshape(draw.shape), draw, 1.0), axis=1)  # padding comes last
        columns = np.sort(order[:, : self.hidden], axis=1)
        positions = (columns + np.arange(len(samples))[:, None] * self.corpus.length).reshape(-1)
        how = uniform((self.seed, HOW), epochs, samples, self.hidden).reshape(-1)
        which = uniform((self.seed, WHICH), epochs, samples, self.hidden).reshape(-1)
        random = self.special + (which * (self.vocabulary_size - self.special)).astype(np.int64)
        targets, hidden = ids[positions], real[positions]
        shown = np.where(how < KEPT, targets, np.where(how < KEPT + RANDOM, random, self.mask_id))
        positions, targets = positions[hidden], targets[hidden]
        ids[positions] = shown[hidden]
        return MaskedBatch(pack(ids, lengths), torch.from_numpy(positions), torch.from_numpy(targets))

    def loss(self, model: PreTrainedModel, batch: MaskedBatch) -> Tensor:
        """Sum of the cross entropies in nats over the hidden tokens."""
        return heads.token_loss(model, batch.packed, batch.positions, batch.targets)

    def score(self, model: PreTrainedModel, batch: MaskedBatch) -> dict[str, Tensor]:
        """Sums over the hidden tokens, for validation."""
        return {"loss": self.loss(model, batch)}
