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
    """Cross entropy of the next token. In a row of the corpus each document is a sequence of its own."""

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
        """Decoders only. The Auto class also builds encoders, whose attention would see the token to predict."""
        others = build.families(AutoModelForMaskedLM) | build.families(AutoModelForSeq2SeqLM)
        return sorted(build.families(cls.auto) - others)

    def __len__(self) -> int:
        return len(self.corpus)

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> TokenBatch:  # noqa: ARG002 - no random draws
        """These rows of the corpus."""
        ids, lengths, real = self.corpus.rows(samples)
        return next_token_batch(ids, lengths, real)


def next_token_batch(
    ids: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], real: npt.NDArray[np.bool_] | bool = True
) -> TokenBatch:
    """Each token of a sequence but the last predicts the next one, unless it is padding.

    ids: (tokens,), sequences one after the other; lengths: (sequences,); real: (tokens,), False for padding.
    """
    last = np.zeros(len(ids), dtype=bool)
    last[np.cumsum(lengths) - 1] = True
    positions = np.flatnonzero(~last & real)
    return TokenBatch(pack(ids, lengths), torch.from_numpy(positions), torch.from_numpy(ids[positions + 1]))
