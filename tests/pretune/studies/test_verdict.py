from __future__ import annotations

import pytest

from pretune.studies.judge import Judge
from pretune.studies.results import SeedResult, TrialResult
from pretune.studies.verdict import Objectives, describe, sentences

JUDGE = Judge("accuracy", higher=True, samples=100, confidence=0.95)


def trial(number, *values, state="complete"):
    """A trial; values: one for each seed."""
    point = {"finetune.learning_rate": number / 1000}
    return TrialResult(number, point, state, [SeedResult(seed, value) for seed, value in enumerate(values)])


def test_without_a_complete_trial_there_is_no_winner():
    """It says so, and what became of the others."""
    assert sentences([], JUDGE, None) == ["No trial is complete yet."]
    assert sentences([trial(1, state="failed"), trial(2, state="running")], JUDGE, None) == [
        "No trial is complete yet.", "1 trial failed.",
    ]  # fmt: skip


def test_one_trial_is_compared_with_none():
    """Its value, without an interval that nobody knows."""
    assert sentences([trial(3, 0.75)], JUDGE, None) == [
        "Best: trial 3, learning_rate=0.003: accuracy 0.75 on validation rows, 1 seed."
    ]


def test_one_seed_without_rows_is_no_proof():
    """The difference without an interval."""
    second = sentences([trial(1, 0.5), trial(2, 0.75)], JUDGE, None)[1]
    assert second == (
        "The next is trial 1 (learning_rate=0.001), +0.25 accuracy: with one seed and no rows, nobody can say more."
    )


def test_a_difference_that_is_noise_is_called_so():
    """With its interval and p; and all the trials that cannot be told from the best."""
    trials = [trial(1, 0.5, 0.7, 0.6), trial(2, 0.71, 0.5, 0.62), trial(3, 0.4, 0.8, 0.59), trial(4, 0.01, 0.02, 0.03)]
    best, against, noise = sentences(trials, JUDGE, None)
    assert best.startswith("Best: trial 2, learning_rate=0.002: accuracy 0.61 (")
    assert best.endswith("on validation rows, 3 seeds.")
    assert against.startswith("Over trial 1 (learning_rate=0.001) its gain is +0.01 (")
    assert "that is noise with these rows and seeds; take the cheaper of the two" in against
    assert noise == "2 of 3 other trials cannot be told from it: 1, 3."


def test_a_significant_difference_is_called_so():
    """The interval is above 0."""
    lines = sentences([trial(1, 0.5, 0.51, 0.52), trial(2, 0.8, 0.82, 0.81)], JUDGE, None)
    assert lines[1].startswith("It is significantly better than trial 1 (learning_rate=0.001): +0.3 (+0.")
    assert len(lines) == 2


def test_many_that_cannot_be_told_apart_are_not_all_listed():
    """Ten of them."""
    trials = [trial(number, 0.5, 0.6) for number in range(14)]
    assert "13 of 13 other trials cannot be told from it: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 …." in sentences(
        trials, JUDGE, None
    )


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (
            ["pruned"] * 3 + ["failed"] + ["left out"] * 2,
            "3 trials were pruned, 1 failed, 2 were left out (do not fit into memory).",
        ),
        (["left out", "running"], "1 trial was left out (does not fit into memory)."),
        (["failed", "failed", "pruned"], "1 trial was pruned, 2 failed."),
    ],
)
def test_trials_that_did_not_end_well_are_counted(states, expected):
    """By how they ended; running ones are not mentioned."""
    trials = [trial(0, 0.5), *(trial(number, state=state) for number, state in enumerate(states, start=1))]
    assert sentences(trials, JUDGE, None)[-1] == expected


def test_the_front_of_several_metrics_is_named():
    """With the values of each; trials that another is better than are not in it."""
    trials = [trial(1, 0.9), trial(2, 0.8), trial(3, 0.7)]
    objectives = Objectives(["accuracy", "seconds"], [True, False], {1: [0.9, 60.0], 2: [0.8, 20.0], 3: [0.7, 30.0]})
    assert sentences(trials, JUDGE, None, objectives)[-1] == (
        "The best trade-offs between accuracy and seconds (Pareto front): trial 1 (learning_rate=0.001): 0.9, 60; "
        "trial 2 (learning_rate=0.002): 0.8, 20."
    )
    one = Objectives(["accuracy"], [True], {1: [0.9], 2: [0.8], 3: [0.7]})
    assert "Pareto" not in " ".join(sentences(trials, JUDGE, None, one))


def test_the_figure_on_test_rows_is_that_of_the_winner():
    """It is told for the winner, and whether others were tested too; that of another trial is not."""
    estimate = {"value": 0.5, "low": 0.25, "high": 0.75}
    trials = [trial(1, 0.5), trial(2, 0.75)]
    last = sentences(trials, JUDGE, {"number": 2, "estimate": estimate})[-1]
    assert last.startswith("On the test rows, which were looked at for this trial only: accuracy 0.5 (0.25 to 0.75).")
    assert "so a little too good" in last
    every = sentences(trials, JUDGE, {"number": 2, "estimate": estimate}, only=False)[-1]
    assert every.startswith("On the test rows: accuracy")
    assert not any("test rows" in line for line in sentences(trials, JUDGE, {"number": 1, "estimate": estimate}))


def test_a_point_is_described_in_a_line():
    """Names without their section, unless two have the same; short numbers; nothing varied is said so."""
    assert describe({"finetune.learning_rate": 3e-05, "adaptation.method": "lora"}) == "learning_rate=3e-5 method=lora"
    assert describe({"pretrain.epochs": 1, "finetune.epochs": 2}) == "pretrain.epochs=1 finetune.epochs=2"
    assert describe({}) == "params.yaml as it is"
