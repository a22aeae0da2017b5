from __future__ import annotations

import json

import pytest
from ruamel.yaml import YAML

from pretune.config.files import flatten
from pretune.release.reproduce import is_within_tolerance, restore_params
from pretune.tracking.record import Record

THEN = """\
seed: 0     # kept
model:
  init: null
  config: {size: 4, layers: 2}
finetune: {epochs: 2, columns: {}, slices: [label], rate: 5e-4, best: false}
gate: {name: mine}
"""


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"seed": 7},
        {"model": {"init": "models/first", "config": {"size": 4, "layers": 2}}},
        {"model": {"init": None, "config": {"size": 8}}},
        {"finetune": {"epochs": None, "columns": {"text": "review"}, "slices": ["a", "b"], "rate": 1e-5, "best": True}},
    ],
    ids=["nothing", "a number", "a text", "a key fewer", "null, a mapping, lists"],
)
def test_params_become_what_was_recorded(tmp_path, change):
    """From recorded texts, in the sections that stages declare; the others do not change."""
    file = tmp_path / "params.yaml"
    file.write_text(THEN, encoding="utf-8")
    expected = YAML(typ="safe", pure=True).load(THEN) | change
    recorded = {key: str(value) for key, value in flatten(expected).items() if not key.startswith("gate")}
    restore_params(file, recorded, {"seed", "model", "finetune"})
    written = file.read_text(encoding="utf-8")
    assert YAML(typ="safe", pure=True).load(written) == expected
    assert "# kept" in written
    assert (written == THEN) == (change == {})


def record(name, **metrics):
    """A run of a stage, with its metrics."""
    return Record("id", name, "FINISHED", 0, None, {}, metrics=metrics)


@pytest.mark.parametrize(("loss", "within"), [(1.009, True), (0.991, True), (1.011, False), (float("nan"), False)])
def test_a_last_loss_within_a_hundredth_is_within_tolerance(tmp_path, loss, within):
    """Relative to the recorded loss; rows of validation, which have no loss, do not count."""
    folder = tmp_path / "reports" / "curves"
    folder.mkdir(parents=True)
    (folder / "finetune.csv").write_text(f"step,loss,validation_loss\n1,9,\n2,{loss},\n2,,5\n", encoding="utf-8")
    tolerable, note = is_within_tolerance(tmp_path, record("finetune", train_loss=1.0))
    assert tolerable == within
    assert note.startswith("finetune: loss 1 then")


@pytest.mark.parametrize(("accuracy", "within"), [(0.6, True), (0.5, True), (0.81, False)])
def test_a_headline_in_the_recorded_interval_is_within_tolerance(tmp_path, accuracy, within):
    """The first metric of the finetuned model; the interval is that of the run that is reproduced."""
    (tmp_path / "reports").mkdir()
    result = {"finetuned": {"accuracy": {"value": accuracy}, "log_loss": {"value": 9.0}}}
    (tmp_path / "reports" / "metrics.json").write_text(json.dumps(result), encoding="utf-8")
    then = {"finetuned.accuracy.low": 0.5, "finetuned.accuracy.high": 0.8}
    assert is_within_tolerance(tmp_path, record("evaluate", **then))[0] == within


def test_data_have_no_tolerance(tmp_path):
    """Outputs of stages that do not train or evaluate are the same bytes, or different."""
    assert is_within_tolerance(tmp_path, record("prepare")) == (False, "prepare: other bytes")
