"""Encoder-decoder models: padded batches of sources and targets, and the cross entropy of the targets."""

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
    """Padded sources and targets.

    input_ids: (rows, longest) int64; attention: (rows, 1, 1, longest) bool, True for real tokens.
    target_ids: (rows, longest target) int64; padding comes last, where no real token attends to.
    positions: (predictions,) int64, of the real tokens in the flattened `target_ids`.
    """

    input_ids: Tensor
    attention: Tensor
    target_ids: Tensor
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
    input_ids, real_inputs = pad(sources, padding)
    target_ids, real_targets = pad(targets, padding)
    return Seq2SeqBatch(
        input_ids=torch.from_numpy(input_ids),
        attention=torch.from_numpy(real_inputs)[:, None, None, :],
        target_ids=torch.from_numpy(target_ids),
        positions=torch.from_numpy(np.flatnonzero(real_targets)),
        tokens=int(real_inputs.sum() + real_targets.sum()),
    )


def states(model: PreTrainedModel, batch: Seq2SeqBatch) -> Tensor:
    """The decoder's last hidden states, from which each target token is predicted: (rows, longest target, hidden)."""
    start = torch.full_like(batch.target_ids[:, :1], model.config.decoder_start_token_id)
    encoded = model.get_encoder()(input_ids=batch.input_ids, attention_mask=batch.attention).last_hidden_state
    decoded: Tensor = (
        model.get_decoder()(
            input_ids=torch.cat([start, batch.target_ids[:, :-1]], dim=1),
            encoder_hidden_states=encoded,
            encoder_attention_mask=batch.attention,
            use_cache=False,
        )
    ).last_hidden_state
    return decoded * scale(model.config)


def token_loss(model: PreTrainedModel, batch: Seq2SeqBatch) -> Tensor:
    """Sum of the cross entropies (nats) of the target tokens."""
    decoded, targets = (values.flatten(0, 1)[batch.positions] for values in (states(model, batch), batch.target_ids))
    bias = getattr(model, "final_logits_bias", None)
    return projected_cross_entropy(
        decoded, model.get_output_embeddings().weight, None if bias is None else bias[0], targets
    )


def scale(config: PreTrainedConfig) -> float:
    """The factor of the states before the projection: T5 scales them down (Raffel et al. 2020)."""
    return float(config.d_model**-0.5) if getattr(config, "scale_decoder_outputs", False) else 1.0
