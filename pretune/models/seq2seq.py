"""Encoder and decoder: what is read beside what is to be written, and the loss of writing it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from pretune.data.padding import pad
from pretune.models.projection import projected_cross_entropy

FAMILIES = ("t5", "bart", "marian")


@dataclass(frozen=True)
class Seq2SeqBatch:
    """Rows to read and rows to write, padded.

    input_ids: (rows, longest) int64; attention: (rows, 1, 1, longest) bool, True where a token is real.
    decoder_input_ids: (rows, longest target) int64: each target after the decoder's first token. Its
    padding comes last, where no real token looks.
    positions, targets: (predictions,) int64, the real places of the flattened decoder and what follows there.
    """

    input_ids: Tensor
    attention: Tensor
    decoder_input_ids: Tensor
    positions: Tensor
    targets: Tensor
    tokens: int

    @property
    def count(self) -> int:
        """Predictions that the loss is summed over."""
        return len(self.targets)

    def to(self, device: torch.device) -> Seq2SeqBatch:
        """The same on another device."""
        names = ("input_ids", "attention", "decoder_input_ids", "positions", "targets")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})


def batch(
    sources: Sequence[npt.NDArray[np.int64]], targets: Sequence[npt.NDArray[np.int64]], *, padding: int, start: int
) -> Seq2SeqBatch:
    """Pad `sources` and `targets`; `start` is what the decoder reads first."""
    input_ids, real = pad(sources, padding)
    wanted, written = pad(targets, padding)
    shifted = np.concatenate([np.full((len(wanted), 1), start), wanted[:, :-1]], axis=1)
    positions = np.flatnonzero(written)
    return Seq2SeqBatch(
        input_ids=torch.from_numpy(input_ids),
        attention=torch.from_numpy(real)[:, None, None, :],
        decoder_input_ids=torch.from_numpy(shifted),
        positions=torch.from_numpy(positions),
        targets=torch.from_numpy(wanted.reshape(-1)[positions]),
        tokens=int(real.sum() + written.sum()),
    )


def states(model: PreTrainedModel, batch: Seq2SeqBatch) -> Tensor:
    """What the decoder makes of each token, ready for the projection: (rows, longest target, hidden)."""
    read = model.get_encoder()(input_ids=batch.input_ids, attention_mask=batch.attention).last_hidden_state
    written: Tensor = (
        model.get_decoder()(
            input_ids=batch.decoder_input_ids,
            encoder_hidden_states=read,
            encoder_attention_mask=batch.attention,
            use_cache=False,
        )
    ).last_hidden_state
    return written * scale(model.config)


def token_loss(model: PreTrainedModel, batch: Seq2SeqBatch) -> Tensor:
    """Sum of the cross entropies (nats) of the tokens to be written."""
    found = states(model, batch).flatten(0, 1)[batch.positions]
    bias = getattr(model, "final_logits_bias", None)
    return projected_cross_entropy(
        found, model.get_output_embeddings().weight, None if bias is None else bias[0], batch.targets
    )


def scale(config: PreTrainedConfig) -> float:
    """T5 shrinks the states before it projects them (Raffel et al. 2020)."""
    return float(config.d_model**-0.5) if getattr(config, "scale_decoder_outputs", False) else 1.0
