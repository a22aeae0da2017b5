"""What studies conclude from planted outcomes."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from flows.studies import data, labels, learning_rate, seeds
from flows.studies.label_curves import Measured
from flows.studies.study import Study
from pretune.config.files import read_yaml
from pretune.config.params import validate
from pretune.errors import ParamsError
from pretune.evaluation.metrics.bootstrap import Difference, Estimate
from pretune.objectives.predictions import Classes, Numbers
from pretune.studies import luck, page
from pretune.studies.settings import seed_overrides

COMMANDS = ["pretune study NAME"]


@pytest.fixture(scope="module")
def params(params_file):
    """The parameters of the tests."""
    return validate(read_yaml(params_file))


def rendered(result):
    """The page of a study; whatever it shows can be drawn, as HTML and as Markdown."""
    content = {"question": result.question, "answer": result.answer, "sections": result.sections}
    text, _ = page.study_markdown(title=result.title, commands=result.commands, **content)
    assert result.answer.split(".")[0].split(" (")[0][:20] in text
    return page.render_study(title=result.title, commands=result.commands, **content)


# seeds


def predictions(count, *, right, rows=400):
    """Classes by `count` seeds: seed k has a share right[k] of the rows right, each seed other ones."""
    found = []
    for seed in range(count):
        order = np.random.default_rng(seed).permutation(rows)
        targets = np.arange(rows) % 2
        guessed = np.where(order < round(right[seed] * rows), targets, 1 - targets)
        found.append(Classes(["a", "b"], targets, np.eye(2, dtype=np.float32)[guessed] * 0.9 + 0.05))
    return found


def concluded(right):
    """The study of seeds in a world where each seed has this share of rows right."""
    found = luck.measure(predictions(len(right), right=right), samples=300, confidence=0.95, seed=0)
    return found, seeds.conclude(found, "finetune", COMMANDS)


def test_luck_that_is_larger_than_a_difference_is_told():
    """Seeds from 0.6 to 0.8: two models must differ by many points, and one point takes very many seeds."""
    found, result = concluded([0.6, 0.8, 0.7, 0.65, 0.75])
    assert found["accuracy"].one_seed > 0.2  # more than the seeds themselves differ
    assert "accuracy is 0.700 on average, from 0.600 to 0.800" in result.answer
    assert f"must differ by {100 * found['accuracy'].one_seed:.2g} points of accuracy" in result.answer
    assert found["accuracy"].seeds_needed(0.01) > 300
    assert "<svg" in rendered(result)


def test_luck_that_leaves_no_room_for_a_difference_is_told():
    """Two seeds that are far apart: a difference of more than the whole range is none that could show."""
    assert "Neither with one seed each nor with 2 is any difference" in concluded([0.2, 0.8])[1].answer
    answer = concluded([0.35, 0.5, 0.875, 0.6])[1].answer
    assert "With one seed each, no difference of accuracy is more than luck; with 4 seeds each, two" in answer


def test_more_seeds_show_smaller_differences():
    """The mean over 20 seeds finds less than the mean over 5, that less than one seed."""
    found, _ = concluded([0.68, 0.72, 0.7, 0.69, 0.71])
    one = found["accuracy"]
    assert one.with_seeds(20) < one.with_seeds(5) < one.one_seed


def test_seeds_that_change_nothing_are_no_evidence():
    """Runs that predict the same have no spread: nothing follows from them, and no division by zero."""
    one = predictions(1, right=[0.7])[0]
    found = luck.measure([one, one, one], samples=100, confidence=0.95, seed=0)
    answer = seeds.conclude(found, "finetune", COMMANDS).answer
    assert "The seed changes nothing" in answer
    assert found["accuracy"].one_seed == 0


def test_the_error_over_rows_is_that_of_their_differences():
    """For a mean over rows: the standard deviation of the differences of single rows over sqrt(rows)."""
    pair = predictions(2, right=[0.7, 0.7])
    hits = [one.probabilities.argmax(axis=1) == one.targets for one in pair]
    exact = np.std(hits[0].astype(float) - hits[1]) / math.sqrt(400)
    found = luck.measure(pair, samples=4000, confidence=0.95, seed=0)["accuracy"]
    assert found.error == pytest.approx(exact, rel=0.05)


def test_metrics_in_units_of_their_own_are_not_told_as_points():
    """The error of numbers has a unit: a hundredth of its mean stands for a point."""
    targets = np.random.default_rng(0).normal(size=(200, 1)).astype(np.float32)
    noisy = [
        Numbers(targets, targets + np.random.default_rng(seed).normal(size=(200, 1)).astype(np.float32))
        for seed in range(1, 5)
    ]
    found = luck.measure(noisy, samples=100, confidence=0.95, seed=0)
    result = seeds.conclude(found, "pretrain", COMMANDS)
    assert "points" not in result.answer
    assert "seeds of pretraining and finetuning" in result.answer
    rendered(result)


@pytest.mark.parametrize(("stage", "changed"), [("finetune", {"finetune"}), ("pretrain", {"pretrain", "finetune"})])
def test_the_point_says_from_which_training_on_the_seed_changes(params, params_file, stage, changed):
    """The key of the point is of params.yaml, unchanged, and decides whose seed each run has."""
    point = seeds.point(params, stage)
    varied = seed_overrides(list(point), read_yaml(params_file), 1)
    assert {key.split(".")[0] for key in varied} == changed
    assert list(point.values()) == [getattr(params, stage).learning_rate]


def test_what_the_study_of_seeds_cannot_vary_is_refused(tmp_path, params_file):
    """All problems at once: an unknown training, and one seed, which shows no spread."""
    (tmp_path / "params.yaml").write_bytes(params_file.read_bytes())
    study = Study(tmp_path, "seeds", seeds=1)
    with pytest.raises(ParamsError) as raised:
        seeds.run(study, vary=["prepare"])
    assert len(raised.value.problems) == 2


# learning rate


@pytest.mark.parametrize("aligned", [False, True])
def test_a_rate_is_looked_for_in_each_training(params, aligned):
    """That of `align` too; its model judges the rates of finetuning, but for their range test, which ruins a model."""
    asked = []

    def sweep(part, points, *, last=None, **_):
        stage = part.removeprefix("range-")
        asked.append((part, last))
        assert {key.split(".")[0] for point in points for key in point} == {stage}
        rates = np.geomspace(1e-6, 0.5, 40)
        curve = [{"learning_rate": rate, "loss": 1 + (math.log10(rate) + 3) ** 2} for rate in rates]
        return SimpleNamespace(
            trials=[SimpleNamespace(number=number, point=point) for number, point in enumerate(points)],
            estimates={number: Estimate(0.7, 0.6, 0.8) for number in range(len(points))},
            folder=SimpleNamespace(higher=[True]), metric="accuracy", best=lambda trials: trials[0],
            outcome=lambda trial, seed: {"curves": {stage: curve}},
        )  # fmt: skip

    own = params.model_copy(update={"align": params.finetune if aligned else None})
    result = learning_rate.run(SimpleNamespace(params=own, seeds=None, sweep=sweep, commands=lambda: COMMANDS))
    trainings = ["pretrain", "finetune", *(["align"] if aligned else [])]
    assert [part for part, _ in asked] == [part for name in trainings for part in (f"range-{name}", name)]
    ends = [last for part, last in asked if part in {"range-finetune", "range-align"}]
    assert ends == (["finetune", "align"] if aligned else [None])
    assert [last for part, last in asked if not part.startswith("range")] == [None] * len(trainings)
    assert ("Alignment is best at" in result.answer) == aligned
    assert "same rate here" in result.answer
    assert set(result.data) == set(trainings)
    rendered(result)


# labels

LADDER = (320, 160, 80, 40, 20)


def world(error_with, error_without, *, noise=0.004):
    """Models with two seeds each, whose errors at n labels are those of two functions (None: no pretraining)."""
    draw, found = np.random.default_rng(0), []
    for number in sorted(LADDER):
        for pretrained, error in ((True, error_with), (False, error_without)):
            if error:
                values = [1 - error(number) + noise * float(draw.normal()) for _ in range(2)]
                mean = sum(values) / 2
                test = Estimate(mean, mean - 0.01, mean + 0.01)
                gap = error_without(number) - error(number)
                gain = Difference(gap, gap - 0.02, gap + 0.02, 0.5) if pretrained else None
                found.append(Measured(number, 3 * 320 // number, pretrained, values, test, gain))
    return found


def slow(n):
    """The error of a model without pretraining: 0.35 at 320 labels."""
    return 0.2 + 1.2 * n**-0.36


def fast(n):
    """Half of it at each number of labels."""
    return 0.5 * slow(n)


def test_pretraining_that_helps_saves_labels():
    """What takes all labels without pretraining takes few with it; the answer says how many, and the share."""
    result = labels.conclude(world(lambda n: slow(4 * n), slow), "accuracy", COMMANDS, higher=True)
    needed = result.data["needed"]["with pretraining"]
    assert 60 < needed["labels"]["value"] < 100
    assert not needed["beyond"]
    assert "Without pretraining, all 320 labels reach accuracy" in result.answer
    assert f"Pretraining saves {1 - needed['labels']['value'] / 320:.0%} of the labels." in result.answer
    assert "Twice the labels (640)" in result.answer
    assert "<svg" in rendered(result)


def test_pretraining_that_does_not_help_is_told():
    """Two equal curves: no saving shows."""
    result = labels.conclude(world(slow, slow, noise=0.01), "accuracy", COMMANDS, higher=True)
    assert "That pretraining saves labels does not show." in result.answer


def test_pretraining_that_harms_is_told():
    """Four times the labels are needed with pretraining, and the models are worse at each number of labels."""
    result = labels.conclude(world(slow, lambda n: slow(4 * n)), "accuracy", COMMANDS, higher=True)
    assert "Pretraining costs labels here" in result.answer


def test_labels_for_a_target_beyond_those_that_were_tried_are_marked():
    """0.72 takes some 1,800 labels where 320 were tried: the curve is extrapolated, and the answer says so."""
    result = labels.conclude(world(None, slow), "accuracy", COMMANDS, higher=True, target=0.72)
    needed = result.data["needed"]["without pretraining"]
    assert needed["beyond"]
    assert needed["labels"]["value"] > 320
    assert "beyond the 20 to 320 that were tried" in result.answer


def test_a_target_that_no_labels_reach_is_told():
    """Above the asymptote without pretraining, below it with: infinity is neither in the answer nor in the JSON."""
    result = labels.conclude(world(fast, slow, noise=0.0005), "accuracy", COMMANDS, higher=True, target=0.85)
    assert "the curve never gets there" in result.answer
    assert "labels alone do not lead there" in result.answer
    assert result.data["needed"]["without pretraining"]["labels"]["value"] is None
    assert "inf" not in rendered(result)


def test_a_target_within_what_was_tried_has_both_numbers_of_labels():
    """A target that both curves reach: two numbers with intervals, neither of them beyond."""
    result = labels.conclude(world(fast, slow), "accuracy", COMMANDS, higher=True, target=0.6)
    assert result.answer.startswith("For accuracy 0.6, it takes ")
    assert not result.data["needed"]["without pretraining"]["beyond"]


def test_too_few_numbers_of_labels_for_a_curve_still_have_a_page():
    """What failed with few labels is named; there is no curve, and no made-up number."""
    few = [one for one in world(fast, slow) if one.labels > 100]
    result = labels.conclude(few, "accuracy", COMMANDS, higher=True, left_out=["20 labels: no training row"])
    assert "No curve could be fitted" in result.answer
    assert "20 labels: no training row" in rendered(result)


@pytest.mark.parametrize(("count", "classes"), [(300, 3), (30, 0), (10, 0), (5000, 40), (40, 15)])
def test_numbers_of_labels_are_enough_for_a_curve_and_for_each_label(count, classes):
    """Three to six, the largest first, none smaller than two for each label."""
    found = labels.numbers_of_labels(count, classes)
    assert 3 <= len(found) <= 6
    assert found == sorted(set(found), reverse=True)
    assert found[0] == count
    assert found[-1] >= max(8, 2 * classes)


def test_too_few_labels_for_the_study_are_a_message():
    """Nine rows leave no room for three numbers of labels."""
    with pytest.raises(ParamsError, match="three numbers of labels"):
        labels.numbers_of_labels(9, 0)


def test_numbers_of_labels_are_trained_for_about_the_same_steps():
    """Epochs times labels are equal within the rounding of epochs; each number with and without pretraining."""
    points = labels.points([300, 150, 75, 9], 3, 1800)
    assert [(point["prepare.train_rows"], point["pretrain.steps"]) for point in points[:2]] == [(300, 1800), (300, 0)]
    seen = [point["prepare.train_rows"] * point["finetune.epochs"] for point in points]
    assert seen == [900] * len(points)
    assert all(point["pretrain.steps"] == 0 for point in labels.points([300, 150, 75], 3, 0))


# data


def shares(qualities, *, last=0.0, width=0.02):
    """Models on 10, 25, 50 and 100 % of the texts. last: the gain from 50 to 100 %; width: of half an interval."""
    found = []
    for number, (share, quality) in enumerate(zip(data.SHARES, qualities, strict=True)):
        gain = last if share == 1 else 0.05
        over = quality - qualities[0]
        differences = [Difference(value, value - width, value + width, 0.5) for value in (gain, over)]
        found.append(data.Measured(
            f"corpus_share={share}", share, [5 - share, 5.1 - share],
            Estimate(quality, quality - width, quality + width), *(differences if number else (None, None)),
        ))  # fmt: skip
    return found


@pytest.mark.parametrize(
    ("qualities", "last", "words"),
    [
        ((0.5, 0.6, 0.65, 0.7), 0.05, "still more of it may help too"),
        ((0.5, 0.6, 0.65, 0.65), 0.0, "there the gain does not show any more"),
        ((0.6, 0.6, 0.61, 0.6), 0.0, "does not show"),
        ((0.7, 0.6, 0.6, 0.5), -0.1, "makes it worse"),
    ],
)
def test_whether_more_text_helps_follows_from_the_intervals(qualities, last, words):
    """It helps and goes on to, has stopped to, does not show, or harms: one sentence for each world."""
    result = data.conclude(shares(qualities, last=last), "accuracy", COMMANDS)
    assert words in result.answer
    assert f"reaches accuracy {qualities[0]:.4g}" in result.answer
    assert "bits per token" in rendered(result)


@pytest.mark.parametrize(("gain", "words"), [(0.1, "Significantly better: source=wiki"), (0.01, "does not show")])
def test_mixtures_are_compared_with_the_first(gain, words):
    """A choice is better if its whole interval is above 0. Without a watched loss there is no figure of it."""
    difference = Difference(gain, gain - 0.05, gain + 0.05, 0.5)
    tried = [
        data.Measured("source=news", math.nan, [], Estimate(0.6, 0.5, 0.7), None, None),
        data.Measured("source=wiki", math.nan, [], Estimate(0.6 + gain, 0.5, 0.8), difference, difference),
    ]
    result = data.conclude(tried, "accuracy", COMMANDS, left_out=["source=mail: no such file"])
    assert words in result.answer
    assert "source=mail: no such file" in rendered(result)
    assert result.data["measured"][0]["share"] is None


def test_points_of_the_study_of_data_are_shares_or_a_space():
    """Shares ascend; KEY=VALUES have the grammar of a sweep; a single point is nothing to compare."""
    assert data.points([], [1, 0.5]) == [{"prepare.corpus_share": 0.5}, {"prepare.corpus_share": 1.0}]
    mixtures = data.points(["ingest.source=a.txt, b.txt, [a.txt, b.txt]"])
    assert [point["ingest.source"] for point in mixtures] == ["a.txt", "b.txt", ["a.txt", "b.txt"]]
    with pytest.raises(ParamsError, match="nothing to compare"):
        data.points(["ingest.source=a.txt"])


def test_the_study_of_data_needs_pretraining(tmp_path, params_file):
    """Without steps of pretraining, texts without labels cannot matter: a message, before anything runs."""
    (tmp_path / "params.yaml").write_bytes(params_file.read_bytes())
    with pytest.raises(ParamsError, match=r"pretrain\.steps is 0"):
        data.run(Study(tmp_path, "data", overridden=["pretrain.steps=0"]))
