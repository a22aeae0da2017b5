"""Small trainings, for test_parallel.py: in its own process by `learn`, in several by running this file."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections import UserDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from pretune.adaptation import methods
from pretune.config.params import TrainingParams
from pretune.data.loading import corpus
from pretune.errors import PretuneError
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.classification import Classification
from pretune.objectives.pretraining.causal_lm import CausalLM
from pretune.objectives.pretraining.masked_lm import MaskedLM
from pretune.training import device, loop, parallel
from pretune.training.checkpoint import Checkpoints
from pretune.training.muon import Muon

WORDS, LENGTH, ROWS, SEED = 60, 16, 8, 3
SHAPE = {
    "vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1,
    "sep_token_id": 2,
}  # fmt: skip
LABELS = ["a", "b", "c"]  # three: two processes cannot share them evenly
ADAPTATIONS = {"gradual": {"epochs_per_layer": 1.0}, "lora": {"r": 2}, "dora": {"r": 2}}
DROPOUT = ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "resid_pdrop", "embd_pdrop",
           "attn_pdrop", "embedding_dropout", "mlp_dropout", "classifier_dropout")  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One training; `task` is a family and an objective."""

    task: str
    strategy: str = "ddp"
    gradient_accumulation_steps: int = 1
    checkpointing: bool = False
    optimizer: str = "adamw"
    metric_for_best_model: str = "last"
    dropout: float = 0.0
    steps: int = 12
    stop: int = 0  # the last process sends itself SIGTERM in this step
    spoil: int = 0  # the last process has a NaN loss in this step
    folder: str = ""  # of checkpoints, below the common one
    adaptation: str = "full"


class Words:
    """A tokenizer of numbers."""

    mask_token_id, all_special_ids = 3, (0, 1, 2, 3)

    def __len__(self):
        return WORDS

    def __call__(self, texts, pairs, *, max_length, **_):
        return UserDict(input_ids=[[1, *map(int, text.split()), 2][:max_length] for text in texts])


class Disturbed:
    """An objective that counts the steps of this process and disturbs one of them."""

    def __init__(self, objective, case, *, last):
        self._inner, self._case, self._last, self._batches, self._losses = objective, case, last, 0, 0

    @property
    def steps(self):
        return self._batches // self._case.gradient_accumulation_steps

    def __len__(self):
        return len(self._inner)

    def batch(self, epochs, samples):
        self._batches += 1
        if self._last and self._batches == self._case.stop * self._case.gradient_accumulation_steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return self._inner.batch(epochs, samples)

    def loss(self, model, batch):
        self._losses += 1
        loss = self._inner.loss(model, batch)
        return loss * float("nan") if self._last and self._losses == self._case.spoil else loss


def prepare(case, folder):
    """Model, objective and validation objective."""
    family = case.task.split("-")[0]
    draw = np.random.default_rng(0)
    lengths = draw.integers(2, 30, 40)
    texts = [draw.integers(4, WORDS, length) for length in lengths]
    config = transformers.AutoConfig.for_model(family, **SHAPE, num_labels=len(LABELS))
    for name in DROPOUT:
        if hasattr(config, name):
            setattr(config, name, case.dropout)
    device.prepare(SEED, 1)
    if case.task.endswith("classes"):
        rows = [{"text": " ".join(map(str, text)), "label": LABELS[n % 3]} for n, text in enumerate(texts)]
        context = ObjectiveContext(Words(), LENGTH, SEED, None, LABELS)
        objective, validation = (Classification(part, context) for part in (rows[:29], rows[29:]))
        return transformers.AutoModelForSequenceClassification.from_config(config), objective, validation
    corpus_folder = folder / f"corpus-{os.getpid()}"
    if not corpus_folder.exists():
        corpus_folder.mkdir()
        corpus.write(corpus_folder, [text.tolist() for text in texts])
    rows, kept = corpus.Sequences(corpus_folder, LENGTH, 0).divide(5, SEED)
    if case.task.endswith("causal"):
        return transformers.AutoModelForCausalLM.from_config(config), CausalLM(rows), CausalLM(kept)
    objective, validation = (MaskedLM(part, Words(), rate=0.3, seed=SEED) for part in (rows, kept))
    return transformers.AutoModelForMaskedLM.from_config(config), objective, validation


def learn(case, folder, world=None):
    """The results of a training: weights, curve, skipped steps; or the error that ended it."""
    world = world or parallel.single_process()
    model, objective, validation = prepare(case, folder)
    objective = Disturbed(objective, case, last=world.rank == world.size - 1)
    adaptation = methods.choose(case.adaptation, ADAPTATIONS.get(case.adaptation, {}))
    adaptation.apply(model, frozenset(methods.head(model)))
    params = TrainingParams(
        objective=case.task.split("-")[1], settings={},
        batch_size=ROWS, gradient_accumulation_steps=case.gradient_accumulation_steps, sequence_length=LENGTH,
        optimizer=case.optimizer,
        learning_rate=3e-3, layer_decay=0.9, schedule="cosine", warmup=0.1, weight_decay=0.01, gradient_clip=0.5,
        precision="fp32", gradient_checkpointing=case.checkpointing, compile=False, max_skipped_steps=3, ema_decay=0.0,
        evaluate_every=4, metric_for_best_model=case.metric_for_best_model, patience=0, seed=None,
    )  # fmt: skip
    checkpoints = Checkpoints(folder / case.folder, world) if case.folder else None
    try:
        model, state = loop.train(
            model, objective, params, case.steps, seed=SEED, report=lambda _: None, validation=validation,
            checkpoints=checkpoints, world=world, strategy=case.strategy,
            unfreeze_schedule=adaptation.unfreeze_schedule(model, len(objective) / ROWS),
        )  # fmt: skip
    except PretuneError as error:
        return {"error": str(error), "exit_code": error.exit_code}
    finally:
        if checkpoints:
            checkpoints.close()
    return {
        "weights": {name: tensor.clone() for name, tensor in model.state_dict().items()} if world.rank == 0 else {},
        "losses": [(record.step, record.loss) for record in state.records],
        "validations": [(result.step, result.metrics) for result in state.validations],
        "skipped": state.skipped,
        "training": model.training,
        "steps": objective.steps,
    }


SIZES = [(8, 24), (24, 8), (16, 16), (1, 5), (7, 3)]  # an odd number; of one row, the second process has none


def step_by_muon(world=None):
    """Matrices after three steps of Muon with the same gradients, sharded over the group's processes."""
    draw = torch.Generator().manual_seed(0)
    sharded = (lambda tensor: tensor) if world is None else _sharded_by(init_device_mesh("cpu", (world.size,)))
    matrices = [nn.Parameter(sharded(torch.randn(size, generator=draw))) for size in SIZES]
    optimizer = Muon([{"params": matrices, "weight_decay": 0.1}], lr=0.02)
    for _ in range(3):
        for matrix in matrices:
            matrix.grad = sharded(torch.randn(matrix.shape, generator=draw))
        optimizer.step()
    return [(matrix.full_tensor() if isinstance(matrix, DTensor) else matrix).detach() for matrix in matrices]


def _sharded_by(mesh):
    return lambda tensor: distribute_tensor(tensor, mesh, [Shard(0)])


def main(folder):
    """Train the cases in `cases.pickle` of the folder, in this process of several; write the results and Muon's."""
    with (folder / "cases.pickle").open("rb") as file:
        cases = pickle.load(file)  # noqa: S301 - our own
    with parallel.init_process_group() as world:
        results = [learn(case, folder, world) for case in cases]
        results.append(step_by_muon(world))
        with (folder / f"results-{world.rank}.pickle").open("wb") as file:
            pickle.dump(results, file)


if __name__ == "__main__":
    sys.modules["ranks"] = sys.modules["__main__"]
    main(Path(sys.argv[1]))
