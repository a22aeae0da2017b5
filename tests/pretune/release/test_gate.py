from __future__ import annotations

import pytest

from pretune.config.files import flatten
from pretune.evaluation.metrics import compute
from pretune.evaluation.metrics.bootstrap import Bootstrap
from pretune.objectives import predictions_io
from pretune.objectives.predictions_io import StoredPredictions
from pretune.release import gate
from pretune.release.compare import compare

OPTIONS = {"bootstrap_samples": 200, "confidence": 0.9, "seed": 0}
ROWS = [f"row {row}" for row in range(60)]


@pytest.fixture
def good(forms):
    """A model that is mostly right."""
    return forms["classes"](skill=3.0)


@pytest.fixture
def poor(good, forms):
    """One that guesses, asked the same."""
    return type(good)(good.names, good.targets, forms["classes"](seed=9, skill=0.0).probabilities)


@pytest.fixture
def examined(params, good, poor):
    """A function that has the good model examined, with other settings or facts."""

    def examine(*, champion=None, gaps=(), measured=None, **settings):
        facts = flatten(compute.measured({"finetuned": good, "scratch": poor}, Bootstrap(60, 200, 0.9, 0)))
        facts = {name.removesuffix(".value"): value for name, value in facts.items()}
        facts |= {"latency_p99": 0.1, "model_megabytes": 3.0} | (measured or {})
        checks = gate.examine(good, facts, params.gate.model_copy(update=settings), champion=champion, gaps=list(gaps))
        return {check.what: check for check in checks}

    return examine


def against(first, second):
    """Both compared on all rows."""
    return compare(
        {
            "champion": StoredPredictions(ROWS, {"finetuned": first}),
            "own": StoredPredictions(ROWS, {"finetuned": second}),
        },
        **OPTIONS,
    )


def test_a_good_model_passes_every_point(examined):
    """Better than the baselines, quick, small, on record: nothing is held against it."""
    checks = examined(thresholds={"accuracy": 0.6, "log_loss": 1.0})
    assert [str(check) for check in checks.values() if not check.passed] == []
    assert set(checks) == {
        "accuracy", "log_loss", "better than scratch", "better than the champion", "latency", "size", "lineage",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "point"),
    [
        ({"thresholds": {"accuracy": 0.999}}, "accuracy"),
        ({"thresholds": {"log_loss": 0.01}}, "log_loss"),
        ({"thresholds": {"acuracy": 0.1}}, "acuracy"),
        ({"latency": 0.01}, "latency"),
        ({"size": 1.0}, "size"),
        ({"gaps": ["prepare: no commit"]}, "lineage"),
        ({"measured": {"gain.scratch.low": -0.01}}, "better than scratch"),
        ({"measured": {"latency_p99": None}}, "latency"),
    ],
)
def test_each_point_can_fail_alone(examined, settings, point):
    """One thing wrong: that point fails, with its reason, and no other."""
    failed = [check for check in examined(**settings).values() if not check.passed]
    assert [check.what for check in failed] == [point]
    assert failed[0].reason


def test_a_misspelt_metric_is_pointed_out(examined):
    """The nearest metric is named."""
    assert "did you mean accuracy?" in examined(thresholds={"acuracy": 0.1})["acuracy"].reason


def test_what_is_not_asked_for_is_not_examined(examined):
    """Baselines and lineage can be left out."""
    assert {"better than scratch", "lineage"} & set(examined(baselines=False, lineage=False, gaps=["x"])) == set()


def test_the_champion_has_to_be_beaten_surely(examined, good, poor):
    """By more than the margin, on the same rows; an equal is not better."""
    assert examined(champion=against(poor, good))["better than the champion"].passed
    assert not examined(champion=against(poor, good), margin=0.9)["better than the champion"].passed
    assert not examined(champion=against(good, good))["better than the champion"].passed


def test_a_champion_that_cannot_be_compared_stays(examined, good, forms):
    """Other rows, other classes or another form: the reason is told."""
    for other, word in (
        (StoredPredictions(["elsewhere"] * 60, {"finetuned": good}), "no row"),
        (StoredPredictions(ROWS, {"finetuned": forms["two_classes"]()}), "different classes"),
        (StoredPredictions(ROWS, {"finetuned": forms["texts"]()}), "different forms"),
    ):
        compared = compare({"champion": other, "own": StoredPredictions(ROWS, {"finetuned": good})}, **OPTIONS)
        check = examined(champion=compared)["better than the champion"]
        assert not check.passed
        assert word in check.reason


def test_evaluations_are_compared_on_the_rows_that_both_have(good, poor):
    """Whatever their order; the metrics are those of these rows."""
    some = StoredPredictions(ROWS[::-1][:40], {"finetuned": predictions_io.take(poor, list(range(60))[::-1][:40])})
    found = compare({"a": StoredPredictions(ROWS, {"finetuned": good}), "b": some}, **OPTIONS)
    assert found.rows == 40
    expected = compute.measured(
        {"a": predictions_io.take(good, list(range(20, 60))), "b": predictions_io.take(poor, list(range(20, 60)))},
        Bootstrap(40, 200, 0.9, 0),
    )
    assert {name: found.scores["a"][name].as_dict() for name in found.scores["a"]} == expected["a"]
    assert found.gains["b"]["accuracy"].value == pytest.approx(-expected["gain"]["b"]["value"], abs=1e-4)
    assert set(found.gains) == {"b"}


def test_rows_with_other_answers_are_not_the_same(good):
    """Relabelled rows cannot be compared."""
    other = type(good)(good.names, (good.targets + 1) % 3, good.probabilities)
    assert "differ" in against(good, other).reason
