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
    """A model that guesses, on the same rows."""
    return type(good)(good.names, good.targets, forms["classes"](seed=9, skill=0.0).probabilities)


@pytest.fixture
def examined(params, good, poor):
    """A function that examines the good model, with other settings or metrics."""

    def examine(*, champion=None, gaps=(), metrics=None, **settings):
        result = flatten(compute.evaluate_models({"finetuned": good, "scratch": poor}, Bootstrap(60, 200, 0.9, 0)))
        run_metrics = {name.removesuffix(".value"): value for name, value in result.items()}
        run_metrics |= {"latency_p99": 0.1, "model_megabytes": 3.0} | (metrics or {})
        gate_params = params.gate.model_copy(update=settings)
        checks = gate.examine("finetuned", good, run_metrics, gate_params, champion=champion, gaps=list(gaps))
        return {check.what: check for check in checks}

    return examine


@pytest.mark.parametrize(
    ("limit", "high", "passed"), [(0.05, 0.04, True), (0.05, 0.06, False), (0.0, -0.01, True), (0.05, None, False)]
)
def test_what_finetuning_made_the_model_forget_is_bounded(examined, limit, high, passed):
    """By the upper end of the interval; what was not measured is not passed; without a bound it is not asked."""
    measured = {} if high is None else {
        "forgetting.increase": high - 0.02, "forgetting.increase.low": high - 0.04, "forgetting.increase.high": high,
    }  # fmt: skip
    assert examined(metrics=measured, forgetting=limit)["forgetting"].passed == passed
    assert "forgetting" not in examined(metrics=measured)


def test_what_is_learnt_of_a_part_does_not_make_up_for_what_is_forgotten_of_another(examined):
    """The bound holds for each part of a mixture; the message names the worst."""
    measured = {
        f"forgetting.{name}{end}": value
        for name, value in {"increase": -0.4, "parts.domain.increase": -0.9, "parts.replay.increase": 0.1}.items()
        for end in ("", ".low", ".high")
    }
    check = examined(metrics=measured, forgetting=0.05)["forgetting"]
    assert not check.passed
    assert "of replay" in check.reason
    assert examined(metrics=measured, forgetting=0.1)["forgetting"].passed


@pytest.mark.parametrize(
    ("name", "bound", "passed"),
    [
        ("arc/acc", 0.4, True),
        ("arc/acc", 0.5, False),
        ("wiki/ppl", 9.0, True),
        ("wiki/ppl", 8.0, False),
        ("a", 0, False),
    ],
)
def test_benchmarks_are_bounded_under_their_names(examined, name, bound, passed):
    """By the whole interval; a name that was not measured is not passed, and the nearest is told."""
    measured = {"benchmarks.arc/acc.higher_is_better": 1.0, "benchmarks.wiki/ppl.higher_is_better": 0.0}
    for key, low, high in (("arc/acc", 0.45, 0.6), ("wiki/ppl", 7.0, 8.5)):
        measured |= {f"benchmarks.{key}.finetuned.low": low, f"benchmarks.{key}.finetuned.high": high}
    assert examined(metrics=measured, thresholds={name: bound})[name].passed == passed
    missing = examined(metrics=measured, thresholds={"arc/ac": 0.1})["arc/ac"]
    assert missing.reason == "no such metric (did you mean arc/acc?)"


def against(first, second):
    """Both compared on all rows."""
    return compare(
        {
            "champion": StoredPredictions(ROWS, {"finetuned": first}),
            "own": StoredPredictions(ROWS, {"finetuned": second}),
        },
        **OPTIONS,
    )


def test_a_good_model_passes_every_check(examined):
    """Better than the baselines, fast, small, with a complete lineage."""
    checks = examined(thresholds={"accuracy": 0.6, "log_loss": 1.0})
    assert [str(check) for check in checks.values() if not check.passed] == []
    assert set(checks) == {
        "accuracy", "log_loss", "better than scratch", "better than the champion", "latency", "size", "lineage",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"thresholds": {"accuracy": 0.999}}, "accuracy"),
        ({"thresholds": {"log_loss": 0.01}}, "log_loss"),
        ({"thresholds": {"acuracy": 0.1}}, "acuracy"),
        ({"latency": 0.01}, "latency"),
        ({"size": 1.0}, "size"),
        ({"gaps": ["prepare: no commit"]}, "lineage"),
        ({"metrics": {"gain.scratch.low": -0.01}}, "better than scratch"),
        ({"metrics": {"latency_p99": None}}, "latency"),
    ],
)
def test_each_check_can_fail_alone(examined, settings, name):
    """With one problem that check fails, with its reason, and no other."""
    failed = [check for check in examined(**settings).values() if not check.passed]
    assert [check.what for check in failed] == [name]
    assert failed[0].reason


def test_a_misspelt_metric_is_pointed_out(examined):
    """The nearest metric is named."""
    assert "did you mean accuracy?" in examined(thresholds={"acuracy": 0.1})["acuracy"].reason


def test_checks_can_be_switched_off(examined):
    """Those of baselines and lineage."""
    assert {"better than scratch", "lineage"} & set(examined(baselines=False, lineage=False, gaps=["x"])) == set()


def test_a_model_has_to_be_significantly_better_than_the_champion(examined, good, poor):
    """By more than the margin, on the same rows; an equal model is not better."""
    assert examined(champion=against(poor, good))["better than the champion"].passed
    assert not examined(champion=against(poor, good), margin=0.9)["better than the champion"].passed
    assert not examined(champion=against(good, good))["better than the champion"].passed


def test_a_champion_that_cannot_be_compared_stays(examined, good, forms):
    """Other rows, other classes or another form of predictions: the check gives the reason."""
    for other, word in (
        (StoredPredictions(["elsewhere"] * 60, {"finetuned": good}), "no row"),
        (StoredPredictions(ROWS, {"finetuned": forms["two_classes"]()}), "different classes"),
        (StoredPredictions(ROWS, {"finetuned": forms["texts"]()}), "different forms"),
    ):
        comparison = compare({"champion": other, "own": StoredPredictions(ROWS, {"finetuned": good})}, **OPTIONS)
        check = examined(champion=comparison)["better than the champion"]
        assert not check.passed
        assert word in check.reason


def test_evaluations_are_compared_on_the_rows_that_both_have(good, poor):
    """In any order; the metrics are those of these rows."""
    some = StoredPredictions(ROWS[::-1][:40], {"finetuned": predictions_io.take(poor, list(range(60))[::-1][:40])})
    comparison = compare({"a": StoredPredictions(ROWS, {"finetuned": good}), "b": some}, **OPTIONS)
    assert comparison.rows == 40
    expected = compute.evaluate_models(
        {"a": predictions_io.take(good, list(range(20, 60))), "b": predictions_io.take(poor, list(range(20, 60)))},
        Bootstrap(40, 200, 0.9, 0),
    )
    assert {name: comparison.scores["a"][name].as_dict() for name in comparison.scores["a"]} == expected["a"]
    assert comparison.gains["b"]["accuracy"].value == pytest.approx(-expected["gain"]["b"]["value"], abs=1e-4)
    assert set(comparison.gains) == {"b"}


def test_rows_with_other_targets_are_not_compared(good):
    """Relabelled rows are not the same rows."""
    other = type(good)(good.names, (good.targets + 1) % 3, good.probabilities)
    assert "differ" in against(good, other).reason
