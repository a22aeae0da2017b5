"""Language modelling as finetuning: a decoder is trained on the texts of a domain and evaluated on others of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedModel
from typing_extensions import override

from pretune.data.loading.collate import pad
from pretune.data.rows import Row
from pretune.objectives.base import FinetuningObjective, ObjectiveContext
from pretune.objectives.predictions import Likelihoods
from pretune.objectives.pretraining.causal_lm import CausalLM, next_token_batch
from pretune.objectives.requirements import COLUMNS
from pretune.objectives.tokens import TokenBatch, TokenObjective

ROWS = 32  # per forward pass of `predict`, at most
LOGITS = 2**26  # of a forward pass, at most: 256 MB


class LanguageModelling(TokenObjective, FinetuningObjective):
    """Predicts each token from those before it. Long texts are split into pieces of `context.length` tokens.

    A piece begins with the last token of the one before: each token but a text's first is predicted once.
    """

    auto = AutoModelForCausalLM
    columns = COLUMNS["language_modelling"]
    answers = "continued"
    answers_untrained = True

    def __init__(self, rows: Sequence[Row], context: ObjectiveContext) -> None:
        self.rows, self.context = rows, context
        encoded = context.inputs([row["text"] for row in rows])["input_ids"]
        step = context.length - 1
        self.pieces = [
            (row, np.array(ids[start : start + context.length], dtype=np.int64))
            for row, ids in enumerate(encoded)
            for start in range(0, max(1, len(ids) - 1), step)
        ]

    @classmethod
    def families(cls) -> list[str]:
        """Decoders."""
        return CausalLM.families()

    def __len__(self) -> int:
        return len(self.pieces)

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> TokenBatch:  # noqa: ARG002 - no random draws
        """These pieces; every token but the first of a piece is predicted from those before it."""
        pieces = [self.pieces[sample][1] for sample in samples]
        return next_token_batch(np.concatenate(pieces), np.array([len(ids) for ids in pieces]))

    @override
    def predict(self, model: PreTrainedModel) -> Likelihoods:
        nats, tokens = np.zeros(len(self.rows)), np.zeros(len(self.rows), dtype=np.int64)
        for pieces in self._batches(model.config.get_text_config().vocab_size):
            rows = [row for row, _ in pieces]
            np.add.at(nats, rows, self._nats(model, [ids for _, ids in pieces]))
            np.add.at(tokens, rows, [len(ids) - 1 for _, ids in pieces])
        return Likelihoods(nats, tokens, np.array([len(row["text"].encode()) for row in self.rows]))

    def _batches(self, vocabulary: int) -> Iterator[list[tuple[int, npt.NDArray[np.int64]]]]:
        """The pieces with their rows, those of similar lengths together."""
        remaining = sorted(self.pieces, key=lambda piece: len(piece[1]))
        while remaining:
            size = min(ROWS, len(remaining))
            while size > 1 and size * len(remaining[size - 1][1]) * vocabulary > LOGITS:
                size -= 1
            yield remaining[:size]
            remaining = remaining[size:]

    def _nats(self, model: PreTrainedModel, pieces: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.float64]:
        """The sum of the cross entropies of each piece: (pieces,)."""
        ids, real = (torch.from_numpy(array) for array in pad(pieces, int(self.context.inputs.pad_token_id)))
        with torch.inference_mode():
            logits = model(input_ids=ids.to(model.device), attention_mask=real.long().to(model.device)).logits
            targets = ids[:, 1:].masked_fill(~real[:, 1:], -100).to(model.device)
            losses = functional.cross_entropy(logits[:, :-1].float().mT, targets, reduction="none")
        return losses.double().sum(dim=1).cpu().numpy()
