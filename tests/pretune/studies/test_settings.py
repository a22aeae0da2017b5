from __future__ import annotations

import typing

import pytest

from pretune.errors import ParamsError
from pretune.evaluation.metrics import compute
from pretune.objectives.finetuning.table import OBJECTIVES
from pretune.studies import settings

BASE = {"name": "one", "space": {"finetune.epochs": "1,2"}, "metric": ["headline"], "sampler": "grid"}
FORMS = {
    "Classes": "classes", "ManyLabels": "many_labels", "Numbers": "numbers", "Tags": "tags", "Texts": "texts",
    "Answers": "answers", "Likelihoods": "likelihoods", "Rankings": "rankings", "Preferences": "preferences",
    "Judgements": "judgements", "Replies": "replies",
}  # fmt: skip


def problems(**given):
    """The problems with which settings are refused."""
    with pytest.raises(ParamsError) as caught:
        settings.validate(BASE | given)
    assert caught.value.next_step == "pretune sweep --help"
    return "\n".join(caught.value.problems)


def test_every_metric_has_the_direction_of_its_definition(forms):
    """Lower is better for exactly those metrics of predictions that say so; and for losses and costs."""
    for form in forms.values():
        for name, metric in compute.metrics(form()).items():
            assert (name in settings.LOWER_IS_BETTER) != metric.higher, name
            asked = settings.validate(BASE | {"metric": [name]})
            assert asked.higher_is_better("classification") == [metric.higher]
    assert {"loss"} | settings.COSTS <= settings.LOWER_IS_BETTER


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_headline_of_every_objective_has_its_direction(name, forms):
    """That of the first metric of the predictions that the objective makes."""
    form = typing.get_type_hints(OBJECTIVES[name].predict)["return"].__name__
    headline = next(iter(compute.metrics(forms[FORMS[form]]()).values()))
    assert settings.validate(BASE).higher_is_better(name) == [headline.higher]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_that_generate_texts_are_judged_by_the_loss(name):
    """By default: texts for each row of each trial take long. The others are judged by their headline."""
    form = typing.get_type_hints(OBJECTIVES[name].predict)["return"].__name__
    assert settings.default_metric(name) == ("loss" if form == "Texts" else "headline")


def test_run_0_of_a_point_has_the_seeds_of_params_yaml():
    """So it is the same run as `pretune run` with the values of the point."""
    base = {"seed": 3, "pretrain": {"seed": None}, "finetune": {"seed": None}}
    assert settings.seed_overrides(["pretrain.epochs"], base, 0) == {}


def test_runs_change_the_seeds_of_the_trainings_that_the_space_reaches():
    """A space of finetuning leaves pretraining, and so what is shared, alone; splits never change."""
    base = {"seed": 3, "pretrain": {"seed": None}, "finetune": {"seed": 10}}
    ours = ["finetune.learning_rate", "adaptation.method", "evaluate.confidence"]
    assert settings.seed_overrides(ours, base, 2) == {"finetune.seed": 12}
    for other in ("pretrain.epochs", "model.type", "prepare.max_length"):
        assert settings.seed_overrides([*ours, other], base, 2) == {"pretrain.seed": 5, "finetune.seed": 12}


def test_runs_change_the_seeds_of_a_second_stage_of_finetuning():
    """It alone where the space is about it, else with that of the first: `adaptation` is that of both."""
    base = {"seed": 3, "pretrain": {"seed": None}, "finetune": {"seed": 10}, "align": {"seed": None}}
    assert settings.seed_overrides(["align.learning_rate"], base, 2) == {"align.seed": 5}
    assert settings.seed_overrides(["align.epochs", "adaptation.method"], base, 2) == {
        "finetune.seed": 12, "align.seed": 5,
    }  # fmt: skip
    assert settings.validate(BASE | {"last": "align"}).stage == "align"


def test_runs_of_a_point_differ():
    """No two of them have the same seed."""
    base = {"seed": 0, "pretrain": {"seed": None}, "finetune": {"seed": None}}
    seeds = [settings.seed_overrides(["finetune.epochs"], base, number).get("finetune.seed", 0) for number in range(9)]
    assert len(set(seeds)) == 9


def test_all_wrong_values_are_reported_at_once():
    """Each with its key and what is allowed."""
    found = problems(name="no blanks", seeds=0, sampler="bayes", trials=1.5, unknown=1)
    for word in ("sweep.name", "sweep.seeds", "sweep.sampler", "grid", "sweep.trials", "sweep.unknown"):
        assert word in found


def test_all_settings_that_do_not_fit_together_are_reported_at_once():
    """Costs first, a pruner for several metrics, two stages, seeds twice, no number of trials."""
    found = problems(
        metric=["seconds", "pretrain.loss", "accuracy"], pruner="median", sampler="tpe", seeds=2,
        space={"finetune.seed": "1,2"},
    )  # fmt: skip
    for words in (
        "not the cost seconds",
        "a pruner compares one",
        "do not go together",
        "finetune.seed",
        "needs trials",
    ):
        assert words in found


def test_a_space_may_vary_seeds_if_each_point_runs_once():
    """Only several seeds of each point would take their place."""
    assert settings.validate(BASE | {"space": {"seed": "1,2"}}).seeds == 1
    assert "leave one of them out" in problems(space={"seed": "1,2"}, seeds=2)


@pytest.mark.parametrize(
    ("metric", "stage", "names", "predicts"),
    [
        (["headline"], "finetune", ["headline"], True),
        (["loss"], "finetune", ["loss"], False),
        (["loss", "seconds"], "finetune", ["loss", "seconds"], False),
        (["loss", "accuracy"], "finetune", ["loss", "accuracy"], True),
        (["pretrain.loss", "flops"], "pretrain", ["loss", "flops"], False),
    ],
)
def test_the_metric_decides_what_runs(metric, stage, names, predicts):
    """The stage, and whether the validation rows are predicted."""
    asked = settings.validate(BASE | {"metric": metric})
    assert (asked.stage, asked.metrics, asked.needs_predictions) == (stage, names, predicts)


def test_an_unknown_metric_has_no_limits():
    """A metric of an objective of one's own: nothing is cut off; losses and costs are not below 0."""
    assert settings.bounds("my_score") == (-float("inf"), float("inf"))
    assert settings.bounds("seconds") == (0, float("inf"))
    assert settings.bounds("mcc") == (-1, 1)
