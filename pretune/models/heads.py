"""Running a model on packed sequences: the states of its body, then what its head makes of them.

transformers' own forward passes expect padded rows; these do the same arithmetic without padding.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from pretune.data.packing import Packed
from pretune.models.attention import PACKED
from pretune.models.projection import projected_cross_entropy

ENCODERS = ("bert", "modernbert", "roberta")
DECODERS = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "smollm3")


def prepare(model: PreTrainedModel) -> None:
    """Have the model attend within packed sequences; raises ValueError for a family that is not known to."""
    if model.config.model_type not in ENCODERS + DECODERS:
        msg = f"no packed sequences for models of type {model.config.model_type}"
        raise ValueError(msg)
    model.set_attn_implementation(PACKED)


def states(model: PreTrainedModel, packed: Packed) -> Tensor:
    """The last hidden state of every token: (tokens, hidden)."""
    family = model.config.model_type
    positions = packed.position_ids
    if family == "roberta":  # its positions start after the padding index
        positions = positions + model.config.pad_token_id + 1
    options: dict[str, Any] = {} if family in ENCODERS else {"use_cache": False}
    output = model.base_model(input_ids=packed.input_ids[None], position_ids=positions[None], packed=packed, **options)
    found: Tensor = output.last_hidden_state[0]
    return found


def token_loss(model: PreTrainedModel, packed: Packed, positions: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross entropies (nats) of the vocabulary's logits at `positions` (rows,) against `targets` (rows,)."""
    found = states(model, packed)[positions]
    family, projection = model.config.model_type, model.get_output_embeddings()
    if family == "modernbert":
        found = model.head(found)
    elif family == "bert":
        found = model.cls.predictions.transform(found)
    elif family == "roberta":
        found = model.lm_head.layer_norm(nn.functional.gelu(model.lm_head.dense(found)))
    return projected_cross_entropy(found, projection.weight, projection.bias, targets)


def classify(model: PreTrainedModel, found: Tensor, packed: Packed) -> Tensor:
    """Logits of a sequence classifier: (sequences, labels)."""
    family = model.config.model_type
    if family == "modernbert":
        pooled = found[packed.starts]
        if model.config.classifier_pooling == "mean":
            which = packed.starts.new_zeros(len(found)).index_fill_(0, packed.starts[1:], 1).cumsum(0)
            total = found.new_zeros(len(packed.starts), found.shape[-1]).index_add_(0, which, found)
            pooled = total / packed.lengths[:, None]
        logits: Tensor = model.classifier(model.drop(model.head(pooled)))
    elif family == "bert":
        logits = model.classifier(model.dropout(model.base_model.pooler(found[packed.starts][:, None])))
    elif family == "roberta":
        logits = model.classifier(found[packed.starts][:, None])
    else:
        msg = f"no packed classification for models of type {family}"
        raise ValueError(msg)
    return logits
