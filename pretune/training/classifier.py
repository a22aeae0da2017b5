"""Train a classifier on the labelled rows: what `finetune` and `scratch` share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pretune.data import documents
from pretune.models import build
from pretune.objectives.classification import Classification
from pretune.training import curve, loop

if TYPE_CHECKING:
    from pretune.stage import Stage


def fit(stage: Stage, model: PreTrainedModel, words: PreTrainedTokenizerBase, labels: list[str], *, out: str) -> None:
    """Train all parameters of `model` as the section `finetune` says and leave the result in `out`."""
    params = stage.params.finetune
    rows = documents.read(stage.dep("data/prepared/labelled") / "train.jsonl")
    objective = Classification(
        rows, words, labels, rows=params.batch_size, length=params.sequence_length, seed=stage.params.seed
    )
    steps = params.epochs * objective.steps_per_epoch
    records = loop.train(model, objective, params, steps, stage.reporter(steps))

    curve.write(stage.out(f"reports/curves/{stage.name}.csv"), records)
    build.save(model, words, stage.out(out))
    stage.run.metrics({"train_loss": records[-1].loss, "parameters": model.num_parameters()})
    stage.model(out, examples=[rows[0].text])
