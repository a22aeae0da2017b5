"""Build an encoder from params, or load one from a folder: transformers' Auto classes, offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from pretune.errors import DataError

if TYPE_CHECKING:
    from pretune.params import ModelParams


LOCAL = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False, "dtype": torch.float32}


def config_for(model: ModelParams, tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    """The configuration of a new encoder that fits the tokenizer."""
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "cls_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
    }
    shape = model.model_dump(exclude={"type"})
    positions = tokenizer.model_max_length
    extra: dict[str, Any] = {}
    if model.type == "modernbert":  # sequences are short: every layer sees all of them
        extra = {"classifier_pooling": "mean", "global_attn_every_n_layers": 1}
    if model.type == "roberta":  # its positions start after the padding index
        positions += int(tokenizer.pad_token_id) + 1
    config: PreTrainedConfig = AutoConfig.for_model(
        model.type,
        vocab_size=len(tokenizer),
        max_position_embeddings=positions,
        **shape,
        **ids,
        **extra,
    )
    return config


def masked_lm(config: PreTrainedConfig) -> PreTrainedModel:
    """A new masked language model with random weights (draws from torch's global generator)."""
    return _model(AutoModelForMaskedLM.from_config(config, dtype=torch.float32))


def classifier(config: PreTrainedConfig, labels: list[str]) -> PreTrainedModel:
    """A new classifier with random weights."""
    config = type(config).from_dict(config.to_dict() | _label_names(labels))
    return _model(AutoModelForSequenceClassification.from_config(config, dtype=torch.float32))


def classifier_from(folder: Path, labels: list[str]) -> PreTrainedModel:
    """A classifier whose encoder is the one in `folder` and whose head is new."""
    return _model(AutoModelForSequenceClassification.from_pretrained(_safe(folder), **LOCAL, **_label_names(labels)))


def load_classifier(folder: Path) -> PreTrainedModel:
    """A trained classifier, ready to predict."""
    return _model(AutoModelForSequenceClassification.from_pretrained(_safe(folder), **LOCAL)).eval()


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write transformers' own folder format, weights in safetensors."""
    folder.mkdir(parents=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _safe(folder: Path) -> Path:
    """The folder, unless its configuration asks for code of its own to be run."""
    if '"auto_map"' in (folder / "config.json").read_text(encoding="utf-8"):
        raise DataError(f"{folder}/config.json asks to run code (`auto_map`), which is never done", "use another model")
    return folder


def _label_names(labels: list[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}


def _model(model: Any) -> PreTrainedModel:
    assert isinstance(model, PreTrainedModel)
    return model
