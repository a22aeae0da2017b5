"""Language modelling as finetuning: a decoder goes on learning from a domain's texts, and foretells others of it."""

from __future__ import annotations

from collections.abc import Sequence

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
from pretune.objectives.pretraining.causal_lm import CausalLM, foretold
from pretune.objectives.tokens import TokenBatch, TokenObjective

ROWS = 32  # per forward pass of `predict`


class LanguageModelling(TokenObjective, FinetuningObjective):
    """Batches and loss. A longer text is learnt in pieces of `context.length` tokens.

    A piece begins with the token that the one before it ended with: each token but a text's first is foretold once.
    """

    auto = AutoModelForCausalLM
    columns = ("text",)
    answers = "continued"

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

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> TokenBatch:  # noqa: ARG002 - nothing is drawn
        """These pieces; every token but the first of each is predicted from those before it."""
        chosen = [self.pieces[sample][1] for sample in samples]
        return foretold(np.concatenate(chosen), np.array([len(each) for each in chosen]))

    @override
    def predict(self, model: PreTrainedModel) -> Likelihoods:
        nats, tokens = np.zeros(len(self.rows)), np.zeros(len(self.rows), dtype=np.int64)
        order = sorted(range(len(self.pieces)), key=lambda number: len(self.pieces[number][1]))
        for start in range(0, len(order), ROWS):
            chosen = [self.pieces[number] for number in order[start : start + ROWS]]
            places = [row for row, _ in chosen]
            np.add.at(nats, places, self._nats(model, [ids for _, ids in chosen]))
            np.add.at(tokens, places, [len(ids) - 1 for _, ids in chosen])
        return Likelihoods(nats, tokens, np.array([len(row["text"].encode()) for row in self.rows]))

    def _nats(self, model: PreTrainedModel, pieces: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.float64]:
        """The sum of the cross entropies of each piece: (pieces,)."""
        ids, real = (torch.from_numpy(each) for each in pad(pieces, int(self.context.inputs.pad_token_id)))
        with torch.inference_mode():
            logits = model(input_ids=ids.to(model.device), attention_mask=real.long().to(model.device)).logits
            targets = ids[:, 1:].masked_fill(~real[:, 1:], -100).to(model.device)
            found = functional.cross_entropy(logits[:, :-1].float().mT, targets, reduction="none")
        return found.double().sum(dim=1).cpu().numpy()
