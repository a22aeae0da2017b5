"""Running a model on packed sequences: the states of its body, then what its head makes of them.

For the families of PACKED these functions do the arithmetic of transformers' own forward passes
without padding. Any other family is given padded rows, and what it says at padding is dropped: this
file alone knows which is which.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pretune.data.loading.varlen import Packed, padded, unpadded
from pretune.models import attention, dropout
from pretune.models.projection import projected_cross_entropy

ENCODERS = ("bert", "modernbert", "roberta", "distilbert")
DECODERS = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "smollm3")
PACKED = ENCODERS + DECODERS
MULTIPLE = 64  # tokens: oneDNN makes a kernel for each number of them that occurs


def is_packed(model: PreTrainedModel) -> bool:
    """Whether the model reads packed sequences as they are."""
    return model.config.model_type in PACKED


def has_types(model: PreTrainedModel) -> bool:
    """Whether the model is told which of two texts a token belongs to."""
    return int(getattr(model.config, "type_vocab_size", 0)) > 1


def prepare(model: PreTrainedModel) -> None:
    """Have the model attend within packed sequences, if its family is known to, and drop out in little time."""
    dropout.use_fast_dropout(model)
    if is_packed(model):
        model.set_attn_implementation(attention.PACKED)


def states(model: PreTrainedModel, packed: Packed) -> Tensor:
    """The last hidden state of every token of a model of PACKED: (tokens, hidden)."""
    family = model.config.model_type
    filling = (0, 0 if packed.places is None or packed.input_ids.is_cuda else -len(packed.input_ids) % MULTIPLE)
    ids, positions = (nn.functional.pad(each, filling) for each in (packed.input_ids, packed.position_ids))
    if family == "roberta":  # its positions start after the padding index
        positions = positions + model.config.pad_token_id + 1
    options: dict[str, Any] = {}
    if family in DECODERS:  # any mask of four dimensions keeps them from making one, which takes a look at the data
        options = {"use_cache": False, "attention_mask": positions.new_empty(1, 1, 1, 1)}
    if packed.token_type_ids is not None and has_types(model):
        options["token_type_ids"] = nn.functional.pad(packed.token_type_ids, filling)[None]
    output = model.base_model(input_ids=ids[None], position_ids=positions[None], packed=packed, **options)
    found: Tensor = output.last_hidden_state[0, : len(packed.input_ids)]
    return found


def token_loss(model: PreTrainedModel, packed: Packed, positions: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross entropies (nats) of the vocabulary's logits at `positions` (rows,) against `targets` (rows,)."""
    if not is_packed(model):
        logits = _own_logits(model, packed, per_token=True)[positions]
        return nn.functional.cross_entropy(logits, targets, reduction="sum")
    found = states(model, packed)[positions]
    family, projection = model.config.model_type, model.get_output_embeddings()
    if family == "modernbert":
        found = model.head(found)
    elif family == "bert":
        found = model.cls.predictions.transform(found)
    elif family == "roberta":
        found = model.lm_head.layer_norm(nn.functional.gelu(model.lm_head.dense(found)))
    elif family == "distilbert":
        found = model.vocab_layer_norm(model.activation(model.vocab_transform(found)))
    return projected_cross_entropy(found, projection.weight, projection.bias, targets)


def classify(model: PreTrainedModel, packed: Packed) -> Tensor:
    """Logits of a sequence classifier: (sequences, labels) float32."""
    family = model.config.model_type
    if not is_packed(model):
        return _own_logits(model, packed)
    found = states(model, packed)
    first = found[packed.starts]
    if family == "modernbert":
        if model.config.classifier_pooling == "mean":
            first = _mean(found, packed)
        logits = model.classifier(model.drop(model.head(first)))
    elif family == "bert":
        logits = model.classifier(model.dropout(model.base_model.pooler(first[:, None])))
    elif family == "roberta":
        logits = model.classifier(first[:, None])
    elif family == "distilbert":
        logits = model.classifier(model.dropout(nn.functional.relu(model.pre_classifier(first))))
    else:  # a decoder says it at the last token
        logits = model.score(found[packed.bounds[1:].long() - 1])
    return _single(logits)


def tag(model: PreTrainedModel, packed: Packed) -> Tensor:
    """Logits of a token classifier: (tokens, labels) float32."""
    family = model.config.model_type
    if not is_packed(model):
        return _own_logits(model, packed, per_token=True)
    found = states(model, packed)
    if family == "modernbert":
        logits = model.classifier(model.drop(model.head(found)))
    else:
        projection = model.score if hasattr(model, "score") else model.classifier
        logits = projection(model.dropout(found))
    return _single(logits)


def spans(model: PreTrainedModel, packed: Packed) -> Tensor:
    """Logits of each token of a sequence to be the first and the last of an answer: (sequences, longest, 2) float32.

    What stands behind the end of a sequence is minus infinity.
    """
    columns = torch.arange(packed.longest, device=packed.bounds.device)
    real = columns < packed.lengths[:, None]
    if is_packed(model):
        found = states(model, packed)
        if model.config.model_type == "modernbert":
            logits = model.classifier(model.drop(model.head(found)))
        else:
            logits = model.qa_outputs(model.dropout(found) if model.config.model_type == "distilbert" else found)
        logits = logits[torch.where(real, packed.starts[:, None] + columns, 0)]
    else:
        said = model(**_rows(model, packed))
        logits = torch.stack([said.start_logits, said.end_logits], dim=-1)
    return _single(logits).masked_fill(~real[..., None], float("-inf"))


def _rows(model: PreTrainedModel, packed: Packed) -> dict[str, Tensor]:
    """What transformers' own forward pass takes."""
    rows = padded(packed, int(model.config.pad_token_id or 0))
    if not has_types(model):
        rows.pop("token_type_ids", None)
    return rows


def _own_logits(model: PreTrainedModel, packed: Packed, *, per_token: bool = False) -> Tensor:
    """Transformers' own: (sequences, labels), or those of each token, (tokens, labels); float32."""
    logits = model(**_rows(model, packed)).logits
    return _single(unpadded(logits, packed) if per_token else logits)


def _mean(found: Tensor, packed: Packed) -> Tensor:
    """The mean state of each sequence: (sequences, hidden)."""
    which = packed.starts.new_zeros(len(found)).index_fill_(0, packed.starts[1:], 1).cumsum(0)
    total = found.new_zeros(len(packed.starts), found.shape[-1]).index_add_(0, which, found)
    return total / packed.lengths[:, None]


def _single(logits: Any) -> Tensor:
    assert isinstance(logits, Tensor)
    return logits.to(torch.float32)
