from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from cli.run import show
from flows import summary
from flows.summary import Outcome


def estimate(value):
    """A value with an interval."""
    return {"value": value, "low": value - 0.02, "high": value + 0.02}


def model(value):
    """The metrics of one model."""
    return {"accuracy": estimate(value), "macro_f1": estimate(value - 0.1), "mcc": estimate(0.0)}


RESULTS = {
    "test_rows": 2000, "train_rows": 300, "confidence": 0.95, "finetuned": model(0.71234), "scratch": model(0.55),
    "majority": model(0.3), "gain": {"scratch": {"value": 0.16234, "low": 0.14, "high": 0.18, "p": 0.001}},
}  # fmt: skip


def shown(results, *, overridden=(), stages=()):
    """The output at the end of a run."""
    out = io.StringIO()
    result = {"run": "x", "stages": dict.fromkeys(stages), "results": results, "warning": ""}
    show(Console(file=out, width=120), result, overridden=bool(overridden))
    return out.getvalue()


def test_every_model_that_was_evaluated_has_a_row():
    """The first metric with its interval, and the second; a model that is missing is left out."""
    assert summary.rows(RESULTS)[0] == ("finetuned from the pretrained model", "0.712", "0.692 - 0.732", "0.612")
    assert [row[1] for row in summary.rows(RESULTS)] == ["0.712", "0.550", "0.300"]
    assert len(summary.rows({"majority": RESULTS["majority"]})) == 1
    assert summary.rows({}) == []


@pytest.mark.parametrize(
    ("value", "low", "high", "expected"),
    [
        (0.162, 0.14, 0.18, "+16.2 points of accuracy (+14.0 to +18.0"),
        (-0.01, -0.03, 0.01, "-1.0 points of accuracy (-3.0 to +1.0"),
    ],
)
def test_the_gain_is_shown_in_points_with_its_sign(value, low, high, expected):
    """Better or worse, with the paired interval."""
    gain = {"scratch": {"value": value, "low": low, "high": high}}
    assert expected in summary.gains(RESULTS | {"gain": gain})[0]


def test_benchmarks_are_shown_with_the_difference():
    """The evaluated model's own value, and by how much it is better than the others."""
    entry = {"samples": 9, "higher_is_better": True, "finetuned": estimate(0.5), "gain": {"base": estimate(0.1)}}
    line = "arc/acc: 0.5 (0.48 to 0.52), +0.1 (+0.08 to +0.12) over the checkpoint as it came"
    assert summary.benchmarks(RESULTS | {"benchmarks": {"arc/acc": entry}}) == [line]
    assert line in " ".join(shown(RESULTS | {"benchmarks": {"arc/acc": entry}}).split())
    assert summary.benchmarks(RESULTS) == []


def test_the_rival_of_each_gain_is_named():
    """Random weights, or the checkpoint as it came: the same figure means another thing."""
    gain = {"value": 0.16, "low": 0.14, "high": 0.18, "p": 0.001}
    lines = summary.gains(RESULTS | {"base": model(0.6), "gain": {"scratch": gain, "base": gain, "majority": gain}})
    assert [line.split()[0] for line in lines] == ["pretraining", "training"]
    assert [line.partition(" over ")[2] for line in lines] == [
        "the same model from scratch",
        "the checkpoint as it came",
    ]


def test_of_preferences_the_win_rate_has_a_line():
    """Over each model that answers too; a single metric is shown once."""
    judged = {"finetuned": {"accuracy": estimate(0.7)}, "base": {"accuracy": estimate(0.6)}}
    results = judged | {"win_rate": {"base": estimate(0.9)}, "test_rows": 9}
    (line,) = summary.wins(results)
    assert line == "better answers than the checkpoint as it came: 90 % of the test prompts (88 to 92 %)"
    assert line in summary.markdown(results | {"gain": {}}, [])
    assert summary.heads(results) == ["accuracy"]
    assert summary.wins(RESULTS) == []


def test_forgetting_has_a_line_where_it_was_measured():
    """Before, after, and the paired interval of the increase; of each part of a mixture too."""
    found = {"before": estimate(1.2), "after": estimate(1.25), "increase": estimate(0.05), "texts": 9}
    results = RESULTS | {"forgetting": found | {"parts": {"replay": found}}}
    line, of_part = summary.forgetting(results)
    assert line == "held-out text: 1.200 bits per byte before training, 1.250 after: +0.050 (+0.030 to +0.070)"
    assert of_part == line.replace("text:", "text of replay:")
    assert line in summary.markdown(results, [])
    assert summary.forgetting(RESULTS) == []


def test_a_metric_that_is_no_share_has_no_points():
    """Errors and bits have their own unit, and more than one decimal."""
    numbers = {"rmse": estimate(1.5), "mae": estimate(1.0)}
    results = {"finetuned": numbers, "scratch": numbers, "gain": {"scratch": {"value": 0.25, "low": 0.1, "high": 0.4}}}
    assert "+0.250 rmse (+0.100 to +0.400" in summary.gains(results)[0]
    assert summary.heads(results) == ["rmse", "mae"]


def fewer(low, value):
    """A share, with the gain over the model from scratch on all labels."""
    return {"rows": 75, "over_all": {"value": value, "low": low, "high": 0.2}}


@pytest.mark.parametrize(
    ("small", "large", "expected"),
    [
        (
            (-0.2, -0.1),
            (0.01, 0.05),
            "From 25 % of the labels (75 rows) the pretrained model is significantly better than",
        ),
        ((-0.1, 0.01), (-0.1, 0.02), "From 5 % of the labels (75 rows) the pretrained model is about as good as"),
        ((-0.2, -0.1), (-0.1, -0.01), "On none of these shares is the pretrained model as good as"),
    ],
)
def test_a_sentence_says_how_many_labels_pretraining_saves(small, large, expected):
    """It names the smallest share on which the pretrained model is as good as the other one on all rows."""
    by_share = {"0.05": fewer(*small), "0.25": fewer(*large), "1": fewer(0.1, 0.2) | {"rows": 300}}
    results = RESULTS | {"label_efficiency": by_share}
    assert f"{expected} the model from scratch on all 300." in summary.labels(results)
    assert summary.labels(results) in shown(results).replace("\n", " ")
    assert summary.labels(RESULTS) == ""


def test_no_evaluation_has_no_gain():
    """A run of early stages shows no models."""
    assert summary.gains({}) == []
    assert "accuracy" not in shown({})


def test_the_end_shows_the_table_and_where_to_look_next():
    """Numbers, rows, confidence, and commands that exist."""
    text = shown(RESULTS)
    for part in ("2000 test rows", "300 labelled", "0.712", "95 % interval", "+16.2 points", "pretune ui", "dvc.lock"):
        assert part in text


@pytest.mark.parametrize(
    ("stages", "named", "not_named"),
    [
        (["ingest", "prepare"], ["pretune data show"], ["report.html", "pretune trace"]),
        (["ingest", "prepare", "pretrain", "finetune"], ["pretune data show", "pretune trace"], ["report.html"]),
        (["evaluate"], ["report.html"], ["pretune data show", "pretune trace"]),
    ],
)
def test_the_end_names_only_what_the_run_made(stages, named, not_named):
    """A report that was not made is not among the next commands."""
    text = shown({}, stages=stages)
    assert [part for part in named if part not in text] == []
    assert [part for part in not_named if part in text] == []


def test_a_run_with_overrides_says_how_to_keep_it():
    """params.yaml did not change: the user has to edit it to keep the values."""
    text = shown(RESULTS, overridden=["seed=1"])
    assert "edit params.yaml" in text
    assert "git add dvc.lock" not in text


def test_the_artifact_is_a_table_of_models_and_one_of_stages():
    """Prefect shows the same numbers, and how each stage ended."""
    text = summary.markdown(RESULTS, [Outcome("ingest", "skipped", 0.0), Outcome("pretrain", "ran", 61.4)])
    assert "| finetuned from the pretrained model | 0.712 | 0.692 - 0.732 | 0.612 |" in text
    assert "| ingest | skipped | 0 |" in text
    assert "| pretrain | ran | 61 |" in text


def test_the_summary_is_json():
    """`pretune run --json` prints it for programs."""
    outcomes = [Outcome("ingest", "ran", 1.26)]
    printed = json.loads(json.dumps(summary.as_dict("123", outcomes, RESULTS, "")))
    assert printed["stages"] == {"ingest": {"outcome": "ran", "seconds": 1.3}}
    assert printed["results"]["finetuned"]["accuracy"]["value"] == 0.71234
