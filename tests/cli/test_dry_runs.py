"""What `evaluate` will cost, tried on a part of its work."""

from __future__ import annotations

import json
import time

import pytest

from cli import dry_runs
from cli.estimates import DryRunStage
from pretune.data import rows
from pretune.data.loading import corpus
from pretune.lineage.graph import Node
from pretune.models import build
from pretune.objectives.finetuning.table import OBJECTIVES
from pretune.training.estimate import answering
from tests.contracts import samples

DEPS = ["data/prepared/labelled", "data/prepared/corpus", "models/finetuned", "models/scratch", "models/pretrained"]
FAMILY = dict(reversed(samples.pairs(OBJECTIVES)))
ASKED = sorted(OBJECTIVES.keys() - {"image_classification", "linear_regression"})  # those of texts


def workspace(root, objective, words):
    """What `prepare` and `pretrain` leave."""
    columns, labelled, shards = (
        OBJECTIVES[objective].columns,
        root / "data/prepared/labelled",
        root / "data/prepared/corpus",
    )
    table = [{name: samples.COLUMNS[name][number] for name in columns} for number in range(8)]
    if "chosen" in columns:  # then `messages` holds the prompt only
        table = [row | {"messages": row["messages"][:1]} for row in table]
    labelled.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        rows.write(labelled / f"{split}.parquet", table)
    labels = samples.LABELS if {"label", "labels", "tags"} & set(columns) else []
    (labelled / "labels.json").write_text(json.dumps(labels), encoding="utf-8")
    shards.mkdir()
    corpus.write(shards, [words(text)["input_ids"] for text in samples.TEXTS * 2])
    build.save(samples.new(objective, FAMILY[objective], words), words, root / "models/pretrained", {})


def tried(root, params, objective, *, scratch=False):
    """The estimate of `evaluate` while no model is finetuned."""
    section = {"objective": objective, "settings": samples.SETTINGS.get(objective, {}), "sequence_length": 32}
    changed = {
        "model": params.model.model_copy(update={"type": FAMILY[objective], "config": {}}),
        "pretrain": params.pretrain.model_copy(update={"steps": 0, "validation_rows": 0}),
        "finetune": params.finetune.model_copy(update=section),
        "scratch": params.scratch.model_copy(update={"train": scratch}),
    }
    node = Node("evaluate", "", DEPS, [], [], [], {})
    stage = DryRunStage(root, node, params.model_copy(update=changed), root, ["models/finetuned", "models/scratch"])
    return dry_runs.evaluate(stage, time.perf_counter())


@pytest.mark.parametrize("objective", ASKED)
def test_the_models_of_every_objective_of_texts_are_tried(tmp_path, params, words, objective):
    """The pretrained model stands in for those that will be finetuned."""
    workspace(tmp_path, objective, words)
    found = tried(tmp_path, params, objective)
    assert found["parameters"] > 0
    assert 0 < found["seconds"] < 100
    assert found["memory_gb"] > 0.1


def test_each_model_that_is_compared_counts(tmp_path, params, words, monkeypatch):
    """One from scratch answers all rows too, if it is trained."""
    workspace(tmp_path, "instruction", words)
    monkeypatch.setattr(answering.Pace, "writing", lambda *_: 1000.0)
    assert 1000 < tried(tmp_path, params, "instruction")["seconds"] < 2000
    assert 2000 < tried(tmp_path, params, "instruction", scratch=True)["seconds"] < 3000
