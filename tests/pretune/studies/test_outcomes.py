from __future__ import annotations

import json
import math

import pytest

from pretune.evaluation.metrics import compute
from pretune.objectives.predictions_io import StoredPredictions, dumps
from pretune.studies import outcomes

CURVE = """step,loss,learning_rate,flops,validation_loss,validation_accuracy
10,2.5,0.001,100,,
15,,,150,1.5,0.5
20,2.0,0.001,200,1.25,0.75
30,1.5,0.001,300,1.25,0.75
40,1.0,0.001,400,1.75,0.25
"""


@pytest.fixture
def curve(tmp_path):
    """A learning curve with gaps: rows without a training loss, and without a validation."""
    path = tmp_path / "curve.csv"
    path.write_text(CURVE, encoding="utf-8")
    return outcomes.read_curve(path)


def test_an_error_is_best_where_it_is_least():
    """Of distillation, cross entropy and divergence are errors as the loss is."""
    rows = [{"step": step, "validation_divergence": value} for step, value in ((10, 2.0), (20, 1.0), (30, 1.5))]
    assert outcomes.last_values(rows, "divergence") == {"divergence": 1.0}


def test_gaps_of_a_curve_have_no_value(curve, tmp_path):
    """Only what was measured is there; a curve that does not exist is empty."""
    assert curve[0] == {"step": 10, "loss": 2.5, "learning_rate": 0.001, "flops": 100}
    assert "loss" not in curve[1]
    assert outcomes.validations(curve, "loss") == [(15, 1.5), (20, 1.25), (30, 1.25), (40, 1.75)]
    assert outcomes.validations(curve, "macro_f1") == []
    assert outcomes.read_curve(tmp_path / "none.csv") == []


@pytest.mark.parametrize(("chosen_by", "step"), [("last", 40), ("loss", 20), ("accuracy", 20)])
def test_the_values_are_those_of_the_weights_that_were_kept(chosen_by, step, curve):
    """The last ones, or the best by the metric; the first of equals, as training keeps them."""
    row = next(row for row in curve if row["step"] == step)
    expected = {"loss": row["validation_loss"], "accuracy": row["validation_accuracy"]}
    assert outcomes.last_values(curve, chosen_by) == expected


def test_validations_without_the_metric_or_with_nan_are_not_the_best():
    """NaN is worse than any number; where it is all that there is, the first counts."""
    nan = math.nan
    rows = [
        {"step": 1, "validation_loss": nan},
        {"step": 2, "validation_loss": 3.0},
        {"step": 3, "validation_loss": nan},
    ]
    assert outcomes.last_values(rows, "loss") == {"loss": 3.0}
    assert outcomes.last_values([{"validation_f1": 9.0}, *rows], "loss") == {"loss": 3.0}
    assert math.isnan(outcomes.last_values(rows[:1], "loss")["loss"])


def test_without_validations_there_are_no_values():
    """A training without validation has a curve, but nothing to compare."""
    assert outcomes.last_values([{"step": 10.0, "loss": 1.0}], "loss") == {}
    assert outcomes.last_values([], "last") == {}


def test_values_of_predictions_begin_with_the_headline(tmp_path, forms):
    """The headline under its own name as well; a metric without a value is left out."""
    for name, form in forms.items():
        file = tmp_path / f"{name}.json"
        predicted = form()
        file.write_text(dumps(StoredPredictions(["row"] * 60, {"finetuned": predicted})), encoding="utf-8")
        values, headline = outcomes.values_of(file), next(iter(compute.metrics(predicted)))
        assert next(iter(values)) == "headline"
        assert values["headline"] == values[headline]
        assert outcomes.headline_name(file) == headline


@pytest.fixture
def trained(tmp_path):
    """A function that notes that a stage ran here, or was restored, and the costs of the run."""
    state, kept = tmp_path / "state", tmp_path / "costs"

    def costs(hashes, ran=None, stages=("pretrain", "finetune")):
        for stage, metrics in (ran or {}).items():
            facts = {"outputs": {outcomes.TRAINED[stage]: hashes[outcomes.TRAINED[stage]]}, "metrics": metrics}
            (state / "stages").mkdir(parents=True, exist_ok=True)
            (state / "stages" / f"{stage}.json").write_text(json.dumps(facts), encoding="utf-8")
            curve = tmp_path / f"reports/curves/{stage}.csv"
            curve.parent.mkdir(parents=True, exist_ok=True)
            curve.write_text(CURVE, encoding="utf-8")
        return outcomes.costs(tmp_path, state, kept, hashes, list(stages))

    return costs


PRETRAINED = {"seconds": 10.0, "memory_gb": 4.0, "parameters": 100, "trained_parameters": 100}
FINETUNED = {"seconds": 2.0, "memory_gb": 3.0, "parameters": 110, "trained_parameters": 10}
MODELS = {"models/pretrained": "aa", "models/finetuned": "bb", "data/prepared": "cc"}


def test_costs_are_sums_and_those_of_the_last_training(trained):
    """Seconds and FLOPs add up; parameters are those of finetuning; memory is the larger one."""
    found = trained(MODELS, {"pretrain": PRETRAINED, "finetune": FINETUNED})
    assert (found["seconds"], found["flops"], found["memory_gb"]) == (12, 800, 4)
    assert (found["parameters"], found["trained_parameters"]) == (110, 10)
    assert found["pretrain.seconds"] == 10


def test_a_stage_that_is_restored_costs_what_it_did_when_it_ran(trained):
    """Kept by the hash of the model: another model in between does not take its place."""
    first = trained(MODELS, {"pretrain": PRETRAINED, "finetune": FINETUNED})
    second = trained(MODELS | {"models/finetuned": "dd"}, {"finetune": FINETUNED | {"seconds": 5.0}})
    assert (first["seconds"], second["seconds"]) == (12, 15)
    assert trained(MODELS) == first


def test_unknown_costs_are_left_out(trained):
    """A model that was made elsewhere: no sum that lacks a part is claimed."""
    trained(MODELS, {"pretrain": PRETRAINED, "finetune": FINETUNED})
    found = trained(MODELS | {"models/pretrained": "elsewhere"})
    assert "seconds" not in found
    assert found["finetune.seconds"] == 2
    assert trained(MODELS, stages=["finetune"])["seconds"] == 2


def test_memory_of_the_last_finetuning_is_known_after_it(trained, tmp_path):
    """None before."""
    assert outcomes.last_memory(tmp_path / "state", "finetune") is None
    trained(MODELS, {"finetune": FINETUNED}, ["finetune"])
    assert outcomes.last_memory(tmp_path / "state", "finetune") == 3
