"""Causal language modelling (Radford et al. 2018): predict each token from those before it in its document."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM
from typing_extensions import override

from pretune.data.loading.corpus import Sequences
from pretune.data.loading.varlen import pack
from pretune.models import build
from pretune.objectives.base import ObjectiveContext, PretrainingObjective
from pretune.objectives.tokens import TokenBatch, TokenObjective


class CausalLM(TokenObjective, PretrainingObjective):
    """Batches and loss: rows of the corpus, every token but the last of each document's part predicts the next."""

    auto = AutoModelForCausalLM
    answers = "continued"

    def __init__(self, corpus: Sequences) -> None:
        self.corpus = corpus

    @classmethod
    @override
    def of(cls, samples: Sequences, context: ObjectiveContext) -> Self:
        return cls(samples)

    @classmethod
    def families(cls) -> list[str]:
        """Decoders alone: built by the same Auto class, an encoder would see what it is to predict."""
        others = build.families(AutoModelForMaskedLM) | build.families(AutoModelForSeq2SeqLM)
        return sorted(build.families(cls.auto) - others)

    def __len__(self) -> int:
        return len(self.corpus)

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> TokenBatch:  # noqa: ARG002 - nothing is drawn
        """These rows of the corpus."""
        ids, lengths, real = self.corpus.rows(samples)
        return foretold(ids, lengths, real)


def foretold(
    ids: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], real: npt.NDArray[np.bool_] | bool = True
) -> TokenBatch:
    """Sequences in which each token but the last predicts the next, if it is `real`."""
    last = np.zeros(len(ids), dtype=bool)
    last[np.cumsum(lengths) - 1] = True
    positions = np.flatnonzero(~last & real)
    return TokenBatch(pack(ids, lengths), torch.from_numpy(positions), torch.from_numpy(ids[positions + 1]))
