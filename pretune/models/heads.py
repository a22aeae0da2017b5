"""Run models on packed sequences: the hidden states of the body, then the head.

For the families in PACKED these functions compute what transformers' own forward passes do, without padding.
Other families get padded rows, and their outputs at padding are dropped. Callers need not know the difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pretune.data.loading.varlen import Packed, padded, unpadded
from pretune.models import attention, dropout
from pretune.models.projection import (
    projected_cross_entropy,
    projected_distillation,
    projected_log_probs,
    projected_top,
)

ENCODERS = ("bert", "modernbert", "roberta", "distilbert")
DECODERS = (
    "gemma", "gemma3_text", "glm4", "gpt2", "llama", "mistral", "olmo2", "olmo3", "phi3", "qwen2", "qwen3", "smollm3",
    "starcoder2",
)  # fmt: skip
PACKED = ENCODERS + DECODERS
MULTIPLE = 64  # tokens: oneDNN compiles a kernel for each length that occurs


def is_packed(model: PreTrainedModel) -> bool:
    """Whether the model runs on packed sequences without padding."""
    capped = getattr(model.config, "final_logit_softcapping", None)  # of logits, which a projection leaves out
    return model.config.model_type in PACKED and not capped


def has_types(model: PreTrainedModel) -> bool:
    """Whether the model has token types, which tell the two texts of a pair apart."""
    return int(getattr(model.config, "type_vocab_size", 0)) > 1


def prepare(model: PreTrainedModel) -> None:
    """Give the model attention for packed sequences, if its family supports them, and fast dropout."""
    dropout.use_fast_dropout(model)
    if is_packed(model):
        model.set_attn_implementation(attention.PACKED)


@contextmanager
def packed_attention(model: PreTrainedModel) -> Iterator[None]:
    """Attention for packed sequences inside the block, in a model that is not in training."""
    own = model.config._attn_implementation
    if is_packed(model):
        model.set_attn_implementation(attention.PACKED)
    yield
    model.set_attn_implementation(own)


def states(model: PreTrainedModel, packed: Packed) -> Tensor:
    """The last hidden state of every token, for the families in PACKED: (tokens, hidden)."""
    family = model.config.model_type
    padding = (0, 0 if packed.places is None or packed.input_ids.is_cuda else -len(packed.input_ids) % MULTIPLE)
    ids, positions = (nn.functional.pad(tensor, padding) for tensor in (packed.input_ids, packed.position_ids))
    if family == "roberta":  # positions start after the padding index
        positions = positions + model.config.pad_token_id + 1
    options: dict[str, Any] = {}
    if family in DECODERS:  # with any 4D mask they make none of their own, for which a GPU would have to be waited for
        options = {"use_cache": False, "attention_mask": positions.new_empty(1, 1, 1, 1)}
    if packed.token_type_ids is not None and has_types(model):
        options["token_type_ids"] = nn.functional.pad(packed.token_type_ids, padding)[None]
    output = model.base_model(input_ids=ids[None], position_ids=positions[None], packed=packed, **options)
    hidden: Tensor = output.last_hidden_state[0, : len(packed.input_ids)]
    return hidden


def token_loss(
    model: PreTrainedModel, packed: Packed, positions: Tensor, targets: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Sum of the cross entropies (nats) of the vocabulary's logits at `positions` (rows,) against `targets` (rows,).

    weights: (rows,) float32, factors of the cross entropies.
    """
    if not is_packed(model):
        logits = _own_logits(model, packed, per_token=True)[positions]
        if weights is None:
            return nn.functional.cross_entropy(logits, targets, reduction="sum")
        return nn.functional.cross_entropy(logits, targets, reduction="none") @ weights
    projection = model.get_output_embeddings()
    hidden = _head_states(model, packed, positions)
    return projected_cross_entropy(hidden, projection.weight, projection.bias, targets, weights)


def token_log_probs(model: PreTrainedModel, packed: Packed, positions: Tensor, targets: Tensor) -> Tensor:
    """The log-probability (nats) of each of `targets` (rows,) at `positions` (rows,): (rows,) float32."""
    if not is_packed(model):
        logits = _own_logits(model, packed, per_token=True)[positions]
        return -nn.functional.cross_entropy(logits, targets, reduction="none")
    projection = model.get_output_embeddings()
    return projected_log_probs(_head_states(model, packed, positions), projection.weight, projection.bias, targets)


def token_distillation(
    model: PreTrainedModel,
    packed: Packed,
    positions: Tensor,
    targets: Tensor,
    teacher: tuple[Tensor, Tensor],
    **mix: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """The losses of `projected_distillation` at `positions` (rows,), with its arguments `mix`."""
    return projected_distillation(*_projection(model, packed, positions), targets, teacher, **mix)


def token_top(
    model: PreTrainedModel, packed: Packed, positions: Tensor, top: int, vocabulary: int
) -> tuple[Tensor, Tensor]:
    """The likeliest tokens at `positions` (rows,), as `projected_top` returns them."""
    return projected_top(*_projection(model, packed, positions), top, vocabulary)


def _projection(
    model: PreTrainedModel, packed: Packed, positions: Tensor
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """What is projected to the vocabulary at `positions`, weight and bias; the logits and None for padded families."""
    if not is_packed(model):
        return _own_logits(model, packed, per_token=True)[positions], None, None
    projection = model.get_output_embeddings()
    return _head_states(model, packed, positions), projection.weight, projection.bias


def _head_states(model: PreTrainedModel, packed: Packed, positions: Tensor) -> Tensor:
    """What is projected to the vocabulary at `positions`: (rows, hidden)."""
    hidden = states(model, packed)[positions]
    family = model.config.model_type
    if family == "modernbert":
        hidden = model.head(hidden)
    elif family == "bert":
        hidden = model.cls.predictions.transform(hidden)
    elif family == "roberta":
        hidden = model.lm_head.layer_norm(nn.functional.gelu(model.lm_head.dense(hidden)))
    elif family == "distilbert":
        hidden = model.vocab_layer_norm(model.activation(model.vocab_transform(hidden)))
    return hidden


def classify(model: PreTrainedModel, packed: Packed) -> Tensor:
    """Logits of a sequence classifier: (sequences, labels) float32."""
    family = model.config.model_type
    if not is_packed(model):
        return _own_logits(model, packed)
    hidden = states(model, packed)
    pooled = hidden[packed.starts]
    if family == "modernbert":
        if model.config.classifier_pooling == "mean":
            pooled = _mean(hidden, packed)
        logits = model.classifier(model.drop(model.head(pooled)))
    elif family == "bert":
        logits = model.classifier(model.dropout(model.base_model.pooler(pooled[:, None])))
    elif family == "roberta":
        logits = model.classifier(pooled[:, None])
    elif family == "distilbert":
        logits = model.classifier(model.dropout(nn.functional.relu(model.pre_classifier(pooled))))
    else:  # decoders classify at the last token
        logits = model.score(hidden[packed.bounds[1:].long() - 1])
    return _float32(logits)


def tag(model: PreTrainedModel, packed: Packed) -> Tensor:
    """Logits of a token classifier: (tokens, labels) float32."""
    family = model.config.model_type
    if not is_packed(model):
        return _own_logits(model, packed, per_token=True)
    hidden = states(model, packed)
    if family == "modernbert":
        logits = model.classifier(model.drop(model.head(hidden)))
    else:
        projection = model.score if hasattr(model, "score") else model.classifier
        logits = projection(model.dropout(hidden))
    return _float32(logits)


def embed(model: PreTrainedModel, packed: Packed, pooling: str) -> Tensor:
    """A vector for each sequence: the mean of its states, its first or its last one; (sequences, hidden) float32."""
    if is_packed(model):
        hidden = states(model, packed)
    else:
        hidden = unpadded(model(**_rows(model, packed)).last_hidden_state, packed)
    if pooling == "mean":
        return _float32(_mean(hidden, packed))
    return _float32(hidden[packed.starts if pooling == "first" else packed.bounds[1:].long() - 1])


def spans(model: PreTrainedModel, packed: Packed) -> Tensor:
    """Logits of each token of a sequence to be the first and the last of an answer: (sequences, longest, 2) float32.

    Positions after the end of a sequence have minus infinity.
    """
    columns = torch.arange(packed.longest, device=packed.bounds.device)
    real = columns < packed.lengths[:, None]
    if is_packed(model):
        hidden = states(model, packed)
        if model.config.model_type == "modernbert":
            logits = model.classifier(model.drop(model.head(hidden)))
        else:
            logits = model.qa_outputs(model.dropout(hidden) if model.config.model_type == "distilbert" else hidden)
        logits = logits[torch.where(real, packed.starts[:, None] + columns, 0)]
    else:
        output = model(**_rows(model, packed))
        logits = torch.stack([output.start_logits, output.end_logits], dim=-1)
    return _float32(logits).masked_fill(~real[..., None], float("-inf"))


def _rows(model: PreTrainedModel, packed: Packed) -> dict[str, Tensor]:
    """Padded rows, as transformers' own forward passes take them."""
    rows = padded(packed, int(model.config.pad_token_id or 0))
    if not has_types(model):
        rows.pop("token_type_ids", None)
    return rows


def _own_logits(model: PreTrainedModel, packed: Packed, *, per_token: bool = False) -> Tensor:
    """Logits of transformers' own forward pass: (sequences, labels), or (tokens, labels) if `per_token`; float32."""
    logits = model(**_rows(model, packed)).logits
    return _float32(unpadded(logits, packed) if per_token else logits)


def _mean(hidden: Tensor, packed: Packed) -> Tensor:
    """The mean state of each sequence: (sequences, hidden)."""
    sequence = packed.starts.new_zeros(len(hidden)).index_fill_(0, packed.starts[1:], 1).cumsum(0)
    total = hidden.new_zeros(len(packed.starts), hidden.shape[-1]).index_add_(0, sequence, hidden)
    return total / packed.lengths[:, None]


def _float32(logits: Any) -> Tensor:
    assert isinstance(logits, Tensor)
    return logits.to(torch.float32)
