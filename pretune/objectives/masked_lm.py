"""Masked language modelling (Devlin et al. 2019): predict the tokens that were hidden.

The same number of tokens is hidden in every row, so shapes never change, and the projection to
the vocabulary, the largest part of a small model, is computed at those positions only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pretune.data.corpus import Sequences

KEPT, RANDOM = 0.1, 0.1  # of the hidden tokens: shown as they are, replaced by a random one


@dataclass(frozen=True)
class MaskedBatch:
    """input_ids: (rows, length); positions: (hidden,) into the flattened rows; targets: (hidden,)."""

    input_ids: Tensor
    positions: Tensor
    targets: Tensor


class MaskedLM:
    """Batches and loss of the objective; a batch is a pure function of (seed, step)."""

    def __init__(self, corpus: Sequences, tokenizer: PreTrainedTokenizerBase, rows: int, rate: float) -> None:
        self.corpus, self.rows, self.rate = corpus, rows, rate
        self.mask_id = int(tokenizer.mask_token_id)
        self.special = len(tokenizer.all_special_ids)
        self.vocabulary_size = len(tokenizer)

    def batch(self, step: int) -> MaskedBatch:
        """The rows of one step with `rate` of their tokens hidden."""
        ids = self.corpus.batch(step, self.rows)
        generator = np.random.default_rng([self.corpus.seed, 1, step])
        rows, length = ids.shape
        hidden = max(1, round(self.rate * length))
        columns = np.sort(np.argsort(generator.random((rows, length)), axis=1)[:, :hidden], axis=1)
        positions = (columns + np.arange(rows)[:, None] * length).reshape(-1)
        flat = ids.reshape(-1)
        targets = flat[positions]
        draw = generator.random(len(positions))
        random = generator.integers(self.special, self.vocabulary_size, len(positions))
        flat[positions] = np.where(draw < KEPT, targets, np.where(draw < KEPT + RANDOM, random, self.mask_id))
        return MaskedBatch(torch.from_numpy(ids), torch.from_numpy(positions), torch.from_numpy(targets))

    def loss(self, model: PreTrainedModel, batch: MaskedBatch) -> Tensor:
        """Mean cross entropy in nats per hidden token."""
        states = model.base_model(input_ids=batch.input_ids).last_hidden_state
        logits = head(model)(states.flatten(0, 1)[batch.positions])
        return nn.functional.cross_entropy(logits.float(), batch.targets)


def head(model: PreTrainedModel) -> nn.Module:
    """What turns an encoder's states into logits, by family."""
    parts = {"modernbert": ("head", "decoder"), "bert": ("cls",), "roberta": ("lm_head",)}
    return nn.Sequential(*(getattr(model, part) for part in parts[model.config.model_type]))
