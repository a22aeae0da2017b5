"""Data and models for the contract tests of objectives: a few rows for every column, tiny models of each family.

A new column needs rows here, a new family its smallest configuration. The objectives define which go together.
"""

from __future__ import annotations

import io
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from pretune.adaptation import adapters, methods, quantization
from pretune.config.params import ModelParams, TrainingParams
from pretune.data.loading import corpus
from pretune.data.loading.arrays import Columns
from pretune.models import build
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.table import OBJECTIVES as FINETUNING
from pretune.objectives.finetuning.teacher import Teacher
from pretune.objectives.images import ImageObjective, decode
from pretune.objectives.pretraining.table import OBJECTIVES as PRETRAINING
from pretune.predictor.pixels import Pipeline
from pretune.training import checkpoint, device, loop, parallel

SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
WIDE = {"intermediate_size": 24}
BOTH = {"d_model": 16} | {
    f"{side}_{name}": value
    for side in ("encoder", "decoder")
    for name, value in {"layers": 2, "attention_heads": 2, "ffn_dim": 24}.items()
}
FAMILIES = {
    "bert": SHAPE | WIDE,
    "modernbert": SHAPE | WIDE | {"global_attn_every_n_layers": 1, "mlp_dropout": 0.1},
    "roberta": SHAPE | WIDE,
    "distilbert": SHAPE | {"hidden_dim": 24},
    "electra": SHAPE | WIDE | {"embedding_size": 16},  # runs on padded rows
    "gpt2": SHAPE,
    "llama": SHAPE | WIDE | {"num_key_value_heads": 2, "attention_dropout": 0.1},
    "qwen2": SHAPE | WIDE | {"num_key_value_heads": 1},
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2},
    "bart": BOTH,
    "marian": BOTH,
    "vit": SHAPE | WIDE | {"patch_size": 4, "encoder_stride": 4},
    "linear": {},
}
ADAPTATIONS = {
    "full": {},
    "head": {},
    "top": {"layers": 1},
    "gradual": {"epochs_per_layer": 1.0},
    "lora": {"r": 2, "lora_dropout": 0.1},
    "dora": {"r": 2},
    "ia3": {},
    "qlora": {"r": 2},  # lora, with the matrices below it in nf4
}
SETTINGS = {
    "masked_lm": {"mask_rate": 0.3, "whole_words": True},
    "causal_lm": {},
    "instruction": {"template": None, "reply_tokens": 4, "loss": "all", "reasoning": "trained", "too_long": "cut"},
    "distillation": {
        "template": None,
        "reply_tokens": 4,
        "loss": "all",
        "reasoning": "trained",
        "too_long": "cut",
        "weight": 0.5,
        "temperature": 2.0,
    },
    "grpo": {
        "template": None,
        "reply_tokens": 4,
        "completions": 2,
        "temperature": 1.0,
        "rewards": {"regex": {"weight": 1.0, "pattern": "[a-m ].*"}},
    },
    "embedding": {"temperature": 0.1, "pooling": "mean", "mined_negatives": 1, "dimensions": [8]},
    "span_corruption": {"mask_rate": 0.3, "span_length": 2.0},
    "denoising": {"mask_rate": 0.3, "span_length": 2.0, "permute_sentences": True},
    "masked_images": {"mask_rate": 0.5, "square": 4},
    "seq2seq": {"target_length": 6, "beams": 1},
    "dpo": {"template": None, "reply_tokens": 4, "beta": 0.5, "label_smoothing": 0.0, "loss": "sigmoid"},
    "orpo": {"template": None, "reply_tokens": 4, "beta": 0.5},
    "simpo": {"template": None, "reply_tokens": 4, "beta": 2.0, "gamma": 0.5},
    "kto": {"template": None, "reply_tokens": 4, "beta": 0.5, "desirable_weight": 1.0, "undesirable_weight": 1.0},
    "reward": {"template": None},
    "question_answering": {"overlap": 4, "longest": 4, "best": 2},
}


def png(number):
    """An image of 8 by 8 pixels, dark or light."""
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 100, (8, 8)) + 150 * (number % 2)
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


TRAINING = {
    "batch_size": 4, "gradient_accumulation_steps": 1, "sequence_length": 32, "optimizer": "adamw",
    "learning_rate": 1e-2,
    "layer_decay": 0.9, "schedule": "linear", "warmup": 0.0, "weight_decay": 0.01, "gradient_clip": 1.0,
    "precision": "fp32", "gradient_checkpointing": False, "compile": False, "max_skipped_steps": 3, "ema_decay": 0.0,
    "evaluate_every": 0, "metric_for_best_model": "last", "patience": 0, "objective": "any", "settings": {},
    "seed": None,
}  # fmt: skip
LABELS = ["sea", "kitchen"]
TEXTS = [f"{'waves salt harbour' if n % 2 == 0 else 'flour oven butter'} number {n * n}" for n in range(8)]
COLUMNS = {
    "text": TEXTS,
    "label": [LABELS[n % 2] for n in range(8)],
    "labels": [LABELS if n % 2 else [] for n in range(8)],
    "pair": [f"reply {chr(97 + n) * 3}" for n in range(8)],
    "score": [float(n % 2) for n in range(8)],
    "target": [text.split()[0] for text in TEXTS],
    "question": ["what is it about?"] * 8,
    "context": TEXTS,
    "answers": [[{"text": text.split()[0], "start": 0}] for text in TEXTS],
    "image": [png(n) for n in range(8)],
    "x": [[n / 8, 1 - n / 4] for n in range(8)],
    "y": [[n / 4, n / 2 - 1] for n in range(8)],
    "words": [text.split() for text in TEXTS],
    "tags": [[LABELS[len(word) % 2] for word in text.split()] for text in TEXTS],
    "messages": [
        [{"role": "user", "content": text}, {"role": "assistant", "content": text.split()[0]}] for text in TEXTS
    ],
}
COLUMNS |= {
    "chosen": [[{"role": "assistant", "content": text.split()[-1]}] for text in TEXTS],
    "rejected": [[{"role": "assistant", "content": text.split()[0]}] for text in TEXTS],
    "desirable": [n % 2 == 0 for n in range(8)],
}


def objectives():
    """All objectives: {name: class}."""
    return PRETRAINING | FINETUNING


def pairs(table):
    """Each objective of a table with each family in FAMILIES that can be trained on it."""
    return [
        (name, family) for name, objective in table.items() for family in FAMILIES if family in objective.families()
    ]


def inputs(name, words):
    """The input pipeline, as the objective loads it."""
    objective_class = objectives()[name]
    if issubclass(objective_class, ImageObjective):
        return Pipeline(8, [0.5], [0.5])
    if "linear" in objective_class.families():
        return Columns(["a", "b"], LABELS)
    with TemporaryDirectory() as folder:
        words.save_pretrained(folder)
        return objective_class.inputs(Path(folder))


@cache
def context(name, words):
    """The objective's context."""
    settings = objectives()[name].Settings.model_validate(SETTINGS.get(name, {}))
    return ObjectiveContext(inputs(name, words), 32, 0, settings, LABELS)


def objective(name, words, folder):
    """The objective on the samples; for pretraining in `folder`."""
    objective_class, own_context = objectives()[name], context(name, words)
    if name in FINETUNING:
        rows = [{column: COLUMNS[column][n] for column in objective_class.columns} for n in range(len(TEXTS))]
        if "chosen" in objective_class.columns:  # then `messages` holds the prompt only
            rows = [row | {"messages": row["messages"][:1]} for row in rows]
        if objective_class.referenced:
            rows = [row | {"reference": [-9.0, -8.0]} for row in rows]
        if objective_class.taught:
            own_context = replace(own_context, teacher=teacher(objective_class(rows, own_context), words))
        return objective_class(rows, own_context)
    if not folder.exists():
        folder.mkdir(parents=True)
        corpus.write(folder, [words(text)["input_ids"] for text in TEXTS])
        np.save(
            folder / "images.npy", decode([{"image": file} for file in COLUMNS["image"]], Pipeline(8, [0.5], [0.5]))
        )
        np.save(folder / "x.npy", np.array(COLUMNS["x"]))
    return objective_class.of(objective_class.samples(folder, own_context), own_context)


def teacher(objective, words):
    """What another model holds likely at the targets of the objective's samples."""
    model = new("instruction", "llama", words)
    return Teacher.ask(model.eval(), objective.conversations.samples, 3, len(words))


def new(name, family, words):
    """A model for the objective with random weights, the same in each call."""
    device.prepare(0, 1)
    objective_class = objectives()[name]
    params = ModelParams(type=family, init=None, config=FAMILIES[family])
    return build.new(objective_class, build.config_for(params, objective_class.shape(inputs(name, words))), LABELS)


def pretrained(name, family, words, folder):
    """A pretrained model with a head for the objective, and the names of its new weights; saved in `folder`."""
    if not folder.exists():
        source = next(other for other, objective in PRETRAINING.items() if family in objective.families())
        build.save(new(source, family, words), inputs(source, words), folder, {})
    device.prepare(1, 1)
    return build.load(objectives()[name], folder, LABELS)


def adapted(name, family, method, words, folder):
    """A pretrained model with a head for the objective, adapted; and its unfreeze schedule."""
    model, new_weights = pretrained(name, family, words, folder)
    if method == "qlora":
        quantization.quantize(model, "nf4", new_weights)
    adaptation = methods.choose(method.removeprefix("q"), ADAPTATIONS[method])
    adaptation.apply(model, new_weights)
    return model, adaptation.unfreeze_schedule(model, 2)


def train(model, objective, folder, steps=6, unfreeze_schedule=None, **changes):
    """Train with a checkpoint after step 3, or resume from it; the model, and the step at which training began."""
    with closing(AtThree(folder, parallel.single_process())) as checkpoints:
        model, _ = loop.train(
            model, objective, TrainingParams(**TRAINING | changes), steps,
            seed=0, report=lambda _: None, checkpoints=checkpoints, unfreeze_schedule=unfreeze_schedule,
        )  # fmt: skip
        return model, checkpoints.began


class AtThree(checkpoint.Checkpoints):
    """One checkpoint, after the third step; `began`: the step from which the run resumed."""

    def __init__(self, folder, world):
        super().__init__(folder, world)
        self.began, self._taken = 0, 0

    def load(self, tensors):
        facts = super().load(tensors)
        self.began = self._taken = facts["step"] if facts else 0
        return facts

    def due(self):
        self._taken += 1
        return self._taken == 3 and self.began == 0


def weights(model):
    """A copy of all weights: {name: value}."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same(first, second):
    """Whether two models have the same weights, bit for bit."""
    one, two = weights(first), weights(second)
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


def everything(objective):
    """The batch of all samples."""
    samples = np.arange(len(objective))
    return objective.batch(np.zeros_like(samples), samples)


def saved(model, name, words, folder):
    """Save the model to `folder` as a stage does."""
    adapter_weights = adapters.weights(model)
    own_context = context(name, words)
    build.save(adapters.merge(model), own_context.inputs, folder, objectives()[name].inference_config(own_context))
    adapters.save(adapter_weights, folder / "adapter")
    return folder
