from __future__ import annotations

from pretune.evaluation import names
from pretune.evaluation.metrics.headline import headline
from pretune.release.runs import Evaluation
from pretune.tracking.record import Record

METRIC = {"chrf": {"value": 50.0, "low": 45.0, "high": 55.0}}
RESULTS = {
    "test_rows": 40, "aligned": METRIC, "finetuned": METRIC, "nearest": METRIC,
    "gain": {name: METRIC["chrf"] | {"p": 0.5} for name in ("finetuned", "nearest")}, "label_efficiency": {},
}  # fmt: skip


def test_the_first_model_is_evaluated_whatever_it_is_called():
    """A stage that goes on from the finetuned model puts its own first; a name of a graph of one's own is shown."""
    assert names.evaluated(RESULTS) == "aligned"
    assert names.models_of(RESULTS) == ["aligned", "finetuned", "nearest"]
    assert names.models_of({"distilled": METRIC} | RESULTS)[0] == "distilled"
    assert headline(RESULTS) == {"headline/finetuned": 50.0}
    assert names.evaluated({}) == ""


def test_what_a_teacher_brought_is_not_called_pretraining():
    """The model from scratch has neither; over a checkpoint as it came it is training that counts."""
    results = {"gain": {"scratch": METRIC["chrf"], "base": METRIC["chrf"]}}
    assert names.brought(results) == [("scratch", "pretraining"), ("base", "training")]
    for pretrained, what in ((False, "the teacher"), (True, "pretraining and the teacher")):
        taught = results | {"taught": {"pretrained": pretrained}}
        assert names.brought(taught) == [("scratch", what), ("base", "training")]


def test_the_model_of_an_evaluation_is_the_evaluated_one():
    """Not what it is compared with, nor what is only an input: MLflow returns the inputs in any order."""
    makers = {"pretrain": "pretrained", "finetune": "finetuned", "align": "aligned"}
    trained = {
        stage: Record(stage, stage, "FINISHED", 0, None, {}, outputs={f"models/{out}": out}, models=[f"id of {out}"])
        for stage, out in makers.items()
    }
    inputs = {f"models/{name}": name for name in ("finetuned", "pretrained", "aligned")}
    metrics = {"finetuned.chrf": 1.0, "aligned.chrf": 2.0, "gain.finetuned": 1.0, "gain.nearest": 1.0}
    run = Record("e", "evaluate", "FINISHED", 0, None, {}, inputs=inputs, metrics=metrics)
    assert Evaluation("e", run, {**trained, "evaluate": run}).model == ("id of aligned", trained["align"])
