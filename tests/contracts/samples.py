"""What the contracts of objectives are tested on: a few rows for every column, the smallest models of each family.

A new column needs rows here, a new family its smallest shape; which of them go together, objectives say.
"""

from __future__ import annotations

import io
from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from pretune.adaptation import adapters, methods
from pretune.config.params import ModelParams, TrainingParams
from pretune.data.loading import corpus
from pretune.data.loading.arrays import Columns
from pretune.models import build
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.table import OBJECTIVES as FINETUNING
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
    "electra": SHAPE | WIDE | {"embedding_size": 16},  # runs padded
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
}
SETTINGS = {
    "masked_lm": {"mask_rate": 0.3, "whole_words": True},
    "causal_lm": {},
    "instruction": {"template": None, "reply_tokens": 4},
    "span_corruption": {"mask_rate": 0.3, "span_length": 2.0},
    "denoising": {"mask_rate": 0.3, "span_length": 2.0, "permute_sentences": True},
    "masked_images": {"mask_rate": 0.5, "square": 4},
    "seq2seq": {"target_length": 6, "beams": 1},
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
}  # fmt: skip
KINDS = ["sea", "kitchen"]
TEXTS = [f"{'waves salt harbour' if n % 2 == 0 else 'flour oven butter'} number {n * n}" for n in range(8)]
COLUMNS = {
    "text": TEXTS,
    "label": [KINDS[n % 2] for n in range(8)],
    "labels": [KINDS if n % 2 else [] for n in range(8)],
    "score": [float(n % 2) for n in range(8)],
    "target": [text.split()[0] for text in TEXTS],
    "question": ["what is it about?"] * 8,
    "context": TEXTS,
    "answers": [[{"text": text.split()[0], "start": 0}] for text in TEXTS],
    "image": [png(n) for n in range(8)],
    "x": [[n / 8, 1 - n / 4] for n in range(8)],
    "y": [[n / 4, n / 2 - 1] for n in range(8)],
    "words": [text.split() for text in TEXTS],
    "tags": [[KINDS[len(word) % 2] for word in text.split()] for text in TEXTS],
    "messages": [
        [{"role": "user", "content": text}, {"role": "assistant", "content": text.split()[0]}] for text in TEXTS
    ],
}


def objectives():
    """{name: class} of all there are."""
    return PRETRAINING | FINETUNING


def pairs(table):
    """Each objective of a table with each family of ours that can learn it."""
    return [(name, family) for name, kind in table.items() for family in FAMILIES if family in kind.families()]


def inputs(name, words):
    """The input pipeline, as the objective opens it."""
    kind = objectives()[name]
    if issubclass(kind, ImageObjective):
        return Pipeline(8, [0.5], [0.5])
    if "linear" in kind.families():
        return Columns(["a", "b"], KINDS)
    with TemporaryDirectory() as folder:
        words.save_pretrained(folder)
        return kind.inputs(Path(folder))


@cache
def given(name, words):
    """What the objective is told."""
    settings = objectives()[name].Settings.model_validate(SETTINGS.get(name, {}))
    return ObjectiveContext(inputs(name, words), 32, 0, settings, KINDS)


def objective(name, words, folder):
    """The objective on the samples; for pretraining in `folder`."""
    kind, told = objectives()[name], given(name, words)
    if name in FINETUNING:
        rows = [{column: COLUMNS[column][n] for column in kind.columns} for n in range(len(TEXTS))]
        return kind(rows, told)
    if not folder.exists():
        folder.mkdir(parents=True)
        corpus.write(folder, [words(text)["input_ids"] for text in TEXTS])
        np.save(
            folder / "images.npy", decode([{"image": each} for each in COLUMNS["image"]], Pipeline(8, [0.5], [0.5]))
        )
        np.save(folder / "x.npy", np.array(COLUMNS["x"]))
    return kind.of(kind.samples(folder, told), told)


def new(name, family, words):
    """A model for the objective, of random weights that follow from nothing."""
    device.prepare(0, 1)
    kind = objectives()[name]
    chosen = ModelParams(type=family, init=None, config=FAMILIES[family])
    return build.new(kind, build.config_for(chosen, kind.shape(inputs(name, words))), KINDS)


def pretrained(name, family, words, folder):
    """The folder of a pretrained model of the family that the objective can start from, and what its head lacks."""
    if not folder.exists():
        source = next(each for each, kind in PRETRAINING.items() if family in kind.families())
        build.save(new(source, family, words), inputs(source, words), folder, {})
    device.prepare(1, 1)
    return build.load(objectives()[name], folder, KINDS)


def adapted(name, family, method, words, folder):
    """A pretrained model with a head for the objective, adapted; and when its parameters begin to learn."""
    model, fresh = pretrained(name, family, words, folder)
    chosen = methods.choose(method, ADAPTATIONS[method])
    chosen.apply(model, fresh)
    return model, chosen.unfreeze_schedule(model, 2)


def train(model, what, folder, steps=6, unfreeze_schedule=None, **changes):
    """Train with a checkpoint after step 3; where there is one already, go on from there."""
    with closing(AtThree(folder, parallel.single_process())) as checkpoints:
        model, _ = loop.train(
            model, what, TrainingParams(**TRAINING | changes), steps,
            seed=0, report=lambda _: None, checkpoints=checkpoints, unfreeze_schedule=unfreeze_schedule,
        )  # fmt: skip
        return model, checkpoints.began


class AtThree(checkpoint.Checkpoints):
    """One checkpoint, after the third step; `began`: where the run went on."""

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
    """{name: value} of all there is in the model."""
    return {name: each.detach().clone() for name, each in model.state_dict().items()}


def same(first, second):
    """Whether two models have the same weights, bit for bit."""
    one, two = weights(first), weights(second)
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


def everything(what):
    """The batch of all samples."""
    samples = np.arange(len(what))
    return what.batch(np.zeros_like(samples), samples)


def saved(model, name, words, folder):
    """Leave the model in `folder` as a stage does."""
    own = adapters.weights(model)
    told = given(name, words)
    build.save(adapters.merge(model), told.inputs, folder, objectives()[name].inference_config(told))
    adapters.save(own, folder / "adapter")
    return folder
