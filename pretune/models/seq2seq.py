"""Encoder and decoder: what is read beside what is to be written, and the loss of writing it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from pretune.data.loading.batch import Movable
from pretune.data.loading.collate import pad
from pretune.models.projection import projected_cross_entropy

FAMILIES = ("bart", "marian", "mbart", "mt5", "pegasus", "t5")


@dataclass(frozen=True)
class Seq2SeqBatch(Movable):
    """Rows to read and rows to write, padded.

    input_ids: (rows, longest) int64; attention: (rows, 1, 1, longest) bool, True where a token is real.
    written: (rows, longest target) int64. Its padding comes last, where no real token looks.
    positions: (predictions,) int64, the places of real tokens in the flattened `written`.
    """

    input_ids: Tensor
    attention: Tensor
    written: Tensor
    positions: Tensor
    tokens: int

    @property
    def count(self) -> int:
        """Predictions that the loss is summed over."""
        return len(self.positions)


def batch(
    sources: Sequence[npt.NDArray[np.int64]], targets: Sequence[npt.NDArray[np.int64]], *, padding: int
) -> Seq2SeqBatch:
    """Pad `sources` and `targets`."""
    input_ids, read = pad(sources, padding)
    wanted, written = pad(targets, padding)
    return Seq2SeqBatch(
        input_ids=torch.from_numpy(input_ids),
        attention=torch.from_numpy(read)[:, None, None, :],
        written=torch.from_numpy(wanted),
        positions=torch.from_numpy(np.flatnonzero(written)),
        tokens=int(read.sum() + written.sum()),
    )


def states(model: PreTrainedModel, batch: Seq2SeqBatch) -> Tensor:
    """What the decoder makes of each place, having read what stands before: (rows, longest target, hidden)."""
    start = torch.full_like(batch.written[:, :1], model.config.decoder_start_token_id)
    read = model.get_encoder()(input_ids=batch.input_ids, attention_mask=batch.attention).last_hidden_state
    written: Tensor = (
        model.get_decoder()(
            input_ids=torch.cat([start, batch.written[:, :-1]], dim=1),
            encoder_hidden_states=read,
            encoder_attention_mask=batch.attention,
            use_cache=False,
        )
    ).last_hidden_state
    return written * scale(model.config)


def token_loss(model: PreTrainedModel, batch: Seq2SeqBatch) -> Tensor:
    """Sum of the cross entropies (nats) of the tokens to be written."""
    found, targets = (each.flatten(0, 1)[batch.positions] for each in (states(model, batch), batch.written))
    bias = getattr(model, "final_logits_bias", None)
    return projected_cross_entropy(
        found, model.get_output_embeddings().weight, None if bias is None else bias[0], targets
    )


def scale(config: PreTrainedConfig) -> float:
    """T5 shrinks the states before it projects them (Raffel et al. 2020)."""
    return float(config.d_model**-0.5) if getattr(config, "scale_decoder_outputs", False) else 1.0
