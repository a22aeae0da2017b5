"""Shared by the pretraining objectives of encoder-decoders: the decoder restores a corrupted source text."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel
from typing_extensions import override

from pretune.data.loading.corpus import Sequences
from pretune.data.loading.counter_rng import uniform
from pretune.models import seq2seq
from pretune.models.seq2seq import Seq2SeqBatch
from pretune.objectives.base import ObjectiveContext, PretrainingObjective

Ids = npt.NDArray[np.int64]
Draw = npt.NDArray[np.float64]
DRAWS = 6  # random numbers for each token


class Rewriting(PretrainingObjective):
    """Cross entropy of the target's tokens. Each document's part of a row is corrupted as a sequence of its own.

    The corruption is a pure function of (seed, epoch, sample).
    """

    auto = AutoModelForSeq2SeqLM
    answers = "written"

    def __init__(self, corpus: Sequences, context: ObjectiveContext) -> None:
        self.corpus, self.context = corpus, context
        tokenizer = context.inputs
        self.special = np.array(tokenizer.all_special_ids)
        end = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
        self.end = np.array([end], dtype=np.int64)

    @classmethod
    @override
    def families(cls) -> list[str]:
        return sorted(seq2seq.FAMILIES)

    @classmethod
    @override
    def inference_config(cls, context: ObjectiveContext) -> dict[str, Any]:
        return super().inference_config(context) | {"target_length": context.length, "beams": 1}

    @classmethod
    @override
    def of(cls, samples: Sequences, context: ObjectiveContext) -> Self:
        return cls(samples, context)

    @abstractmethod
    def corrupt(self, ids: Ids, draw: Draw) -> tuple[Ids, Ids]:
        """Source and target made of `ids` (tokens,); draw: (DRAWS, tokens) in [0, 1)."""

    def __len__(self) -> int:
        return len(self.corpus)

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> Seq2SeqBatch:
        """The documents' parts in these rows of the corpus, corrupted; the corruption depends on the epoch."""
        ids, lengths, real = self.corpus.rows(samples)
        draw = uniform((self.context.seed,), epochs, samples, DRAWS * self.corpus.length)
        draw = draw.reshape(len(samples), DRAWS, -1).swapaxes(0, 1).reshape(DRAWS, -1)
        ends = np.cumsum(lengths)
        bounds = [(end - length, end) for end, length in zip(ends, lengths, strict=True) if real[end - 1]]
        pairs = [self._source_and_target(ids[begin:end], draw[:, begin:end]) for begin, end in bounds]
        return seq2seq.batch(*zip(*pairs, strict=True), padding=int(self.context.inputs.pad_token_id))

    def _source_and_target(self, ids: Ids, draw: Draw) -> tuple[Ids, Ids]:
        """Special tokens are not corrupted. The source keeps one at its beginning; both get an end token."""
        content = ~np.isin(ids, self.special)
        first = ids[:1][~content[:1]]
        source, target = self.corrupt(ids[content], draw[:, content])
        return np.concatenate([first, source, self.end]), np.concatenate([target, self.end])

    def loss(self, model: PreTrainedModel, batch: Seq2SeqBatch) -> Tensor:
        """Sum of the cross entropies in nats over the targets' tokens."""
        return seq2seq.token_loss(model, batch)

    def score(self, model: PreTrainedModel, batch: Seq2SeqBatch) -> dict[str, Tensor]:
        """Sums over the targets' tokens, for validation."""
        return {"loss": seq2seq.token_loss(model, batch)}
