"""Masked language modelling (BERT, Devlin et al. 2019): predict masked tokens.

The same number of tokens is masked in every row, so shapes stay the same. The projection to the
vocabulary, the largest part of a small model, is computed at the masked positions only.
"""

from __future__ import annotations

from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM, PreTrainedTokenizerBase
from typing_extensions import override

from pretune.config.section import Section
from pretune.data.loading.corpus import Sequences
from pretune.data.loading.counter_rng import uniform
from pretune.data.loading.varlen import pack
from pretune.data.rows import Row
from pretune.models import build
from pretune.objectives.base import ObjectiveContext, PretrainingObjective
from pretune.objectives.tokens import TokenBatch, TokenObjective

KEPT, RANDOM = 0.1, 0.1  # shares of the selected tokens: left as they are, replaced by a random token; the rest: [MASK]
SPACES = ("Ġ", "Ċ", "ĉ", "▁")  # space, newline and tab in byte-level BPE, space in unigram
POSITIONS, ACTIONS, TOKENS = 1, 2, 3  # streams of random numbers


class MaskedLM(TokenObjective, PretrainingObjective):
    """Cross entropy of the masked tokens; the mask of a sample is a pure function of (seed, epoch, sample)."""

    auto = AutoModelForMaskedLM
    answers = "filled"

    class Settings(Section):
        """mask_rate: share of the tokens to predict. whole_words: mask all tokens of a word or none."""

        mask_rate: Annotated[float, Field(gt=0, lt=1)]
        whole_words: bool

    def __init__(
        self,
        corpus: Sequences,
        tokenizer: PreTrainedTokenizerBase,
        *,
        seed: int,
        rate: float,
        whole_words: bool = False,
    ) -> None:
        self.corpus, self.seed = corpus, seed
        self.hidden = max(1, round(rate * corpus.length))
        self.mask_id = int(tokenizer.mask_token_id)
        self.special_ids = np.array(tokenizer.all_special_ids)
        self.special = len(self.special_ids)
        self.vocabulary_size = len(tokenizer)
        self.begins = word_beginnings(tokenizer) if whole_words else None

    @classmethod
    def families(cls) -> list[str]:
        """Encoders only; the Auto class also builds encoder-decoders such as bart."""
        return sorted(build.families(cls.auto) - build.families(AutoModelForSeq2SeqLM))

    @classmethod
    @override
    def of(cls, samples: Sequences, context: ObjectiveContext) -> Self:
        return cls(
            samples,
            context.inputs,
            seed=context.seed,
            rate=context.settings.mask_rate,
            whole_words=context.settings.whole_words,
        )

    @classmethod
    @override
    def example(cls, context: ObjectiveContext) -> Row:
        return {"text": f"Return the absolute {context.inputs.mask_token} of a file."}

    def __len__(self) -> int:
        return len(self.corpus)

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> TokenBatch:
        """These rows of the corpus, with some of their tokens masked; the mask depends on the epoch."""
        ids, lengths, real = self.corpus.rows(samples)
        draw = uniform((self.seed, POSITIONS), epochs, samples, self.corpus.length)
        order = np.argsort(np.where(real.reshape(draw.shape), draw, 1.0), axis=1)  # padding comes last
        columns = np.sort(order[:, : self.hidden], axis=1)
        chosen = np.ones(columns.shape, dtype=bool)
        if self.begins is not None:
            columns, chosen = self._whole_words(draw, ids.reshape(draw.shape), real.reshape(draw.shape))
        positions = (columns + np.arange(len(samples))[:, None] * self.corpus.length).reshape(-1)
        actions = uniform((self.seed, ACTIONS), epochs, samples, self.hidden).reshape(-1)
        tokens = uniform((self.seed, TOKENS), epochs, samples, self.hidden).reshape(-1)
        random = self.special + (tokens * (self.vocabulary_size - self.special)).astype(np.int64)
        targets, hidden = ids[positions], real[positions] & chosen.reshape(-1)
        shown = np.where(actions < KEPT, targets, np.where(actions < KEPT + RANDOM, random, self.mask_id))
        positions, targets = positions[hidden], targets[hidden]
        ids[positions] = shown[hidden]
        return TokenBatch(pack(ids, lengths), torch.from_numpy(positions), torch.from_numpy(targets))

    def _whole_words(
        self, draw: npt.NDArray[np.float64], ids: npt.NDArray[np.int64], real: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Columns (samples, hidden) word by word, and which of them to mask: not those of a last word that is cut.

        If that word is the only one, a part of it is masked.
        """
        assert self.begins is not None
        begins = self.begins[ids]
        begins[:, 0] = True
        begins[:, 1:] |= np.isin(ids[:, :-1], self.special_ids)  # the token after [CLS]
        first = np.maximum.accumulate(np.where(begins, np.arange(ids.shape[1]), 0), axis=1)
        order = np.argsort(np.where(real, np.take_along_axis(draw, first, axis=1), 1.0), axis=1, kind="stable")
        words = np.take_along_axis(first, order, axis=1)
        inside = words[:, : self.hidden]
        cut = words[:, self.hidden, None] if self.hidden < ids.shape[1] else np.full((len(ids), 1), -1)
        chosen = (inside != cut) | (words[:, :1] == cut)
        return order[:, : self.hidden], chosen


def word_beginnings(tokenizer: PreTrainedTokenizerBase) -> npt.NDArray[np.bool_]:
    """Which tokens begin a word: (vocabulary,).

    WordPiece marks the tokens that do not (`##`). Byte-level BPE and unigram mark those that follow a space;
    there a token that starts with neither letter nor digit begins a word as well.
    """
    tokens = [str(token) for token in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))]
    special = set(tokenizer.all_special_tokens)
    if any(token.startswith("##") for token in tokens):
        return np.array([not token.startswith("##") for token in tokens])
    return np.array([token in special or token[:1] in SPACES or not token[:1].isalnum() for token in tokens])
