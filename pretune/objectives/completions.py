"""Completions of prompts in packed sequences, and their log-probabilities under a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from pretune.data.loading.batch import Movable
from pretune.data.loading.varlen import Packed, pack
from pretune.models import heads

ROWS = 32  # per forward pass without gradients
Encoded = tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]  # token ids, and which of them belong to the completion


@dataclass(frozen=True)
class Completions(Movable):
    """Packed sequences of prompt and completion. `targets` are the tokens of the completions.

    positions, targets, owners: (predictions,) int64: where each target is predicted, itself, and its sequence.
    """

    packed: Packed
    positions: Tensor
    targets: Tensor
    owners: Tensor

    @property
    def tokens(self) -> int:
        """Input tokens."""
        return len(self.packed.input_ids)

    @property
    def lengths(self) -> Tensor:
        """Tokens of each completion, at least 1: (sequences,) float32."""
        return self._sums(torch.ones_like(self.owners, dtype=torch.float32)).clamp(min=1)

    def log_probs(self, model: PreTrainedModel) -> Tensor:
        """The log-probability (nats) of each completion, given its prompt: (sequences,) float32."""
        return self._sums(heads.token_log_probs(model, self.packed, self.positions, self.targets))

    def _sums(self, values: Tensor) -> Tensor:
        """Sums over the tokens of each completion."""
        return values.new_zeros(len(self.packed.starts)).index_add(0, self.owners, values)


def log_probs(
    model: PreTrainedModel, sequences: Sequence[Encoded], told: Callable[[int, int], None] | None = None
) -> npt.NDArray[np.float32]:
    """The log-probability (nats) of each completion under a model that is not in training: (sequences,).

    told: is called with the tokens that are done, and all of them.
    """
    order = sorted(range(len(sequences)), key=lambda place: len(sequences[place][0]))
    result = np.zeros(len(sequences), dtype=np.float32)
    done, tokens = 0, sum(len(ids) for ids, _ in sequences)
    with torch.no_grad(), heads.packed_attention(model):
        for start in range(0, len(order), ROWS):
            places = order[start : start + ROWS]
            batch = collate([sequences[place] for place in places]).to(model.device)
            result[places] = batch.log_probs(model).float().cpu().numpy()
            done += batch.tokens
            if told:
                told(done, tokens)
    return result


def collate(sequences: Sequence[Encoded]) -> Completions:
    """Pack encoded sequences."""
    ids = np.concatenate([tokens for tokens, _ in sequences])
    lengths = np.array([len(tokens) for tokens, _ in sequences])
    targets = np.flatnonzero(np.concatenate([completion for _, completion in sequences]))
    owners = np.repeat(np.arange(len(sequences)), lengths)[targets]
    return Completions(
        pack(ids, lengths), torch.from_numpy(targets - 1), torch.from_numpy(ids[targets]), torch.from_numpy(owners)
    )
