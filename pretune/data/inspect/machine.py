"""The model for an objective, its settings, and as many steps as fit into a given time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

ENCODER, DECODER, CHAT, WRITER, VISION, NUMBERS = "modernbert", "gpt2", "llama", "bart", "vit", "linear"
FAMILIES = {
    "language_modelling": DECODER, "instruction": CHAT, "grpo": CHAT, "dpo": CHAT, "kto": CHAT,
    "orpo": CHAT, "simpo": CHAT, "reward": CHAT, "seq2seq": WRITER, "image_classification": VISION,
    "linear_regression": NUMBERS,
}  # fmt: skip
CALIBRATED = {"binary", "classification", "multi_label", "image_classification"}
SIZES = ((10, 128, 2), (60, 256, 4), (math.inf, 512, 6))  # up to these minutes: hidden size, layers
FINETUNING = 0.3  # share of the time for finetuning; the same again goes to the model from scratch
EPOCHS = 3  # of finetuning: for a checkpoint at most, with many rows enough
PASSES = 30  # over the corpus at most, in pretraining
OVERHEAD = 25  # seconds of what is not training: imports, other stages, records
SETTINGS: dict[str, dict[str, Any]] = {
    "question_answering": {"overlap": 48, "longest": 24, "best": 5},
    "instruction": {"template": None, "reply_tokens": 64, "loss": "all", "reasoning": "trained", "too_long": "cut"},
    "dpo": {"template": None, "reply_tokens": 64, "beta": 0.1, "label_smoothing": 0.0, "loss": "sigmoid"},
    "kto": {"template": None, "reply_tokens": 64, "beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0},
    "orpo": {"template": None, "reply_tokens": 64, "beta": 0.1},
    "simpo": {"template": None, "reply_tokens": 64, "beta": 2.0, "gamma": 1.0},
    "reward": {"template": None},
    "grpo": {
        "template": None,
        "reply_tokens": 64,
        "completions": 8,
        "temperature": 1.0,
        "rewards": {"exact_match": {"weight": 1.0}},
    },
    "embedding": {"temperature": 0.05, "pooling": "mean", "mined_negatives": 0, "dimensions": []},
    "seq2seq": {"target_length": 64, "beams": 1},
}


def family(objective: str) -> str:
    """The `model.type` for an objective."""
    return FAMILIES.get(objective, ENCODER)


def model(objective: str, minutes: float, image_size: int) -> dict[str, Any]:
    """The section `model`: larger for more minutes of training."""
    hidden, layers = next((hidden, layers) for limit, hidden, layers in SIZES if minutes <= limit)
    kind, heads, side = family(objective), hidden // 64, patch(image_size)
    size = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    configs: dict[str, dict[str, Any]] = {
        ENCODER: size | {"intermediate_size": 2 * hidden, "global_attn_every_n_layers": 1,
                         "classifier_pooling": "mean"},
        DECODER: {"n_embd": hidden, "n_layer": layers, "n_head": heads, "n_inner": 4 * hidden,
                  "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
        CHAT: size | {"num_key_value_heads": heads, "intermediate_size": 2 * hidden},
        WRITER: {"d_model": hidden, "encoder_layers": layers, "decoder_layers": layers,
                 "encoder_attention_heads": 2 * heads, "decoder_attention_heads": 2 * heads,
                 "encoder_ffn_dim": 2 * hidden, "decoder_ffn_dim": 2 * hidden, "dropout": 0.0},
        VISION: size | {"intermediate_size": 2 * hidden, "patch_size": side, "encoder_stride": side},
        NUMBERS: {},
    }  # fmt: skip
    return {"type": kind, "init": None, "config": configs[kind]}


def patch(image_size: int) -> int:
    """The side of a patch in pixels: 16 to 64 patches in an image."""
    return next((side for side in (2, 4, 8, 16, 32) if image_size % side == 0 and image_size // side <= 8), image_size)


def pretraining(objective: str, image_size: int) -> dict[str, Any]:
    """The section `pretrain` but for its steps and lengths."""
    kind = family(objective)
    numbers = kind == NUMBERS
    objectives: dict[str, tuple[str, dict[str, Any]]] = {
        ENCODER: ("masked_lm", {"mask_rate": 0.3, "whole_words": False}),
        DECODER: ("causal_lm", {}),
        CHAT: ("causal_lm", {}),
        WRITER: ("denoising", {"mask_rate": 0.3, "span_length": 3.0, "permute_sentences": False}),
        VISION: ("masked_images", {"mask_rate": 0.5, "square": patch(image_size)}),
        NUMBERS: ("reconstruction", {}),
    }
    name, settings = objectives[kind]
    muon = kind in {ENCODER, DECODER, CHAT}
    return _training(numbers) | {
        "objective": name,
        "settings": settings,
        "optimizer": "muon" if muon else "adamw",
        "learning_rate": 5e-3 if muon else 5e-2 if numbers else 1e-3,
        "batch_size": 32,
        "precision": "auto",
        "metric_for_best_model": "last",
    }


def finetuning(objective: str) -> dict[str, Any]:
    """The section `finetune` but for epochs, lengths and what depends on the number of rows."""
    numbers = family(objective) == NUMBERS
    return _training(numbers) | {
        "objective": objective,
        "settings": dict(SETTINGS.get(objective, {})),
        "label_smoothing": 0.0,
        "optimizer": "adamw",
        "learning_rate": 2e-2 if numbers else 5e-4,
        "precision": "fp32" if numbers else "auto",  # bf16 would round the numbers themselves
        "metric_for_best_model": "last",
    }


def _training(numbers: bool) -> dict[str, Any]:
    return {
        "gradient_accumulation_steps": 1, "layer_decay": 1.0, "schedule": "linear", "warmup": 0.1,
        "weight_decay": 0.0 if numbers else 0.01, "gradient_clip": 1000.0 if numbers else 1.0,
        "gradient_checkpointing": False, "compile": False, "max_skipped_steps": 3, "ema_decay": 0.0, "patience": 0,
        "seed": None,
    }  # fmt: skip


@dataclass(frozen=True)
class Enough:
    """Steps and epochs of finetuning that are enough, and steps of pretraining that a small corpus gets as well."""

    steps: int
    epochs: int
    pretraining: int


def enough(objective: str) -> Enough:
    """A linear model has far to go with small steps, which cost nothing."""
    return Enough(3000, 400, 600) if family(objective) == NUMBERS else Enough(300, 20, 100)


@dataclass(frozen=True)
class Pace:
    """Seconds of a step of pretraining and of finetuning."""

    pretrain: float
    finetune: float


ASSUMED = Pace(0.05, 0.03)  # where nothing was measured


@dataclass(frozen=True)
class Plan:
    """How long to train. train_rows: None for all. minutes: of the whole pipeline."""

    steps: int
    epochs: int
    train_rows: int | None
    minutes: float


def adapting(objective: str) -> dict[str, Any]:
    """The section `adaptation` for a checkpoint: large models that chat get adapters, others are trained whole."""
    lora = family(objective) == CHAT
    return {
        "method": "lora" if lora else "full",
        "settings": {"r": 8, "lora_alpha": 16} if lora else {},
        "quantization": None,
    }


def short(pace: Pace, minutes: float, *, rows: int, batch: int) -> Plan:
    """As many of EPOCHS as fit, for a checkpoint: no pretraining, and no model from scratch."""
    epochs, train_rows, seconds = _finetuning(pace, 60 * minutes, Enough(0, EPOCHS, 0), rows=rows, batch=batch)
    return Plan(0, epochs, train_rows, (OVERHEAD + seconds) / 60)


def plan(pace: Pace, minutes: float, *, enough: Enough, rows: int, batch: int, corpus_steps: float) -> Plan:
    """As many epochs and steps as fit. rows: labelled rows to train on. corpus_steps: steps of a pass over the corpus.

    A share FINETUNING of the time goes to each of finetuning and scratch, if they need it; the rest to pretraining.
    """
    whole = 60 * minutes
    epochs, train_rows, finetuned = _finetuning(pace, FINETUNING * whole, enough, rows=rows, batch=batch)
    fits = (whole - 2 * finetuned) / pace.pretrain
    steps = max(1, min(fits, max(enough.pretraining, PASSES * corpus_steps)))
    steps = int(steps // 50 * 50 if steps >= 100 else steps)
    seconds = OVERHEAD + steps * pace.pretrain + 2 * finetuned
    return Plan(steps, epochs, train_rows, seconds / 60)


def _finetuning(pace: Pace, seconds: float, enough: Enough, *, rows: int, batch: int) -> tuple[int, int | None, float]:
    """Epochs that fit into `seconds`, of as many rows as fit (None: all), and the seconds that they take.

    No more than are enough, but EPOCHS at least where there are many rows.
    """
    most, per_epoch = max(1, int(seconds / pace.finetune)), max(1, math.ceil(rows / batch))
    steps = min(most, max(enough.steps, EPOCHS * per_epoch))
    train_rows, per_epoch = (most * batch, most) if per_epoch > most else (None, per_epoch)
    epochs = max(1, min(enough.epochs, steps // per_epoch))
    return epochs, train_rows, epochs * per_epoch * pace.finetune
