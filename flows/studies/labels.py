"""How many labels are needed? Quality by labels, with and without pretraining, and the curves through it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from flows.studies import label_curves
from flows.studies.label_curves import WITH, WITHOUT, Curves, Measured, most, scaled
from flows.studies.study import Part, Result, Study, with_interval
from pretune.config import files
from pretune.data import rows
from pretune.errors import ParamsError
from pretune.evaluation.metrics.bootstrap import Estimate
from pretune.pages.render import Table
from pretune.studies import charts, outcomes
from pretune.studies.label_curve import Needed
from pretune.studies.page import Section, figure
from pretune.studies.results import Point, TrialResult

QUESTION = "How many labels are needed, and what do more bring?"
SIZES, FEWEST, PER_LABEL = 6, 8, 2  # numbers of labels at most; the smallest number, and for each label
SURE = 2  # numbers of labels at which the paired test finds a difference, before labels are said to be saved
FAR, UNKNOWN = 100, 1e7  # times the labels tried, and labels: a curve cannot tell more
LABELLED = "data/prepared/labelled"


def run(study: Study, *, target: float | None = None, sizes: int = SIZES) -> Result:
    """The study. target: of the metric; default: what the model without pretraining reaches with all labels.

    sizes: how many numbers of labels are tried at most, three or more.
    """
    params = study.params
    count, classes = _known(study)
    ladder = numbers_of_labels(count, classes, sizes)
    tried = points(ladder, params.finetune.epochs, params.pretrain.steps)
    cleared = ["label_efficiency.shares=[]"] if params.label_efficiency.shares else []
    part = study.sweep("labels", tried, seeds=study.seeds or 3, metric="headline", overridden=cleared)
    commands = study.commands()
    commands[0] += "" if target is None else shlex.join(["", "--target", f"{target:g}"])
    left = [f"{trial.point['prepare.train_rows']} labels: {trial.note}" for trial in _not_complete(part)]
    return conclude(_measured(part), part.metric, commands, higher=part.folder.higher[0], target=target, left_out=left)


def numbers_of_labels(count: int, classes: int, sizes: int = SIZES) -> list[int]:
    """Numbers of labels, the largest first: halves of `count`, or smaller steps where three halves would be too few.

    count: of labelled rows to train on. classes: labels that each number has to hold, 0 for none. ParamsError if
    there is no room for three numbers.
    """
    smallest = max(FEWEST, PER_LABEL * classes)
    if count < smallest + 2:
        raise ParamsError(
            f"{count} labelled rows to train on: three numbers of labels from {smallest} on do not fit into that",
            "add labelled rows, or raise prepare.train_rows in params.yaml",
        )
    halves = [round(count / 2**power) for power in range(sizes)]
    found = [number for number in halves if number >= smallest]
    if len(found) >= 3:
        return found
    return sorted({count, round(math.sqrt(count * smallest)), smallest}, reverse=True)


def points(ladder: Sequence[int], epochs: int, steps: int) -> list[Point]:
    """Each number of labels with and without pretraining, at about the finetuning steps of the largest number.

    ladder: the largest number first, so that what fails with few labels comes last. steps: of pretraining; with 0
    there is nothing to compare. Epochs are whole, so that steps differ by a few per cent.
    """
    return [
        {
            "prepare.train_rows": number,
            "finetune.epochs": max(1, round(epochs * ladder[0] / number)),
            "pretrain.steps": pretrained,
        }
        for number in ladder
        for pretrained in ([steps, 0] if steps else [0])
    ]


def conclude(
    measured: Sequence[Measured], metric: str, commands: list[str], *, higher: bool, target: float | None = None,
    left_out: Sequence[str] = (),
) -> Result:  # fmt: skip
    """The page: quality by labels, the curves, labels for the target. left_out: what could not be trained, and why."""
    curves = label_curves.fitted(measured, metric, higher=higher)
    wanted, needed = label_curves.needed(measured, curves, target)
    sentences = [*_needed_sentences(needed, wanted, metric, measured, given=target is not None)]
    sentences += _more_sentences(measured, curves, metric)
    sections = [_quality(measured, metric, left_out), _curves(measured, curves, needed, wanted, metric)]
    data = {
        "metric": metric, "target": wanted,
        "measured": [
            vars(one) | {"test": one.test.as_dict(), "gain": one.gain.as_dict() if one.gain else None}
            for one in measured
        ],
        "needed": {
            name: {"labels": _finite(one.labels.as_dict()), "beyond": one.beyond} for name, one in needed.items()
        },
    }  # fmt: skip
    return Result("Labels", QUESTION, " ".join(sentences), sections, commands, data)


def _known(study: Study) -> tuple[int, int]:
    """Labelled rows to train on, and how many labels they have (0 if nobody knows)."""
    asked = study.params.prepare.train_rows
    folder, lock = study.home / LABELLED, study.home / "dvc.lock"
    if not (folder / "train.parquet").is_file() or not lock.is_file():
        if asked is None:
            raise ParamsError(
                "prepare.train_rows is null: how many labelled rows there are is not known before they are prepared",
                "pretune run prepare",
            )
        return asked, 0
    found = rows.count_rows(folder / "train.parquet")
    labels = len(files.read_json(folder / "labels.json"))
    recorded = files.read_yaml(lock).get("stages", {}).get("prepare", {}).get("params", {}).get("params.yaml", {})
    if asked is None or recorded.get("prepare", {}).get("train_rows") in {asked, None}:
        return min(found, asked or found), labels
    return asked, labels


def _not_complete(part: Part) -> list[TrialResult]:
    return [trial for trial in part.trials if trial.state != "complete"]


def _measured(part: Part) -> list[Measured]:
    complete = part.complete()
    if not complete:
        part.best(part.trials)  # raises
    scratch = {trial.point["prepare.train_rows"]: trial for trial in complete if not trial.point["pretrain.steps"]}
    found = []
    for trial in complete:
        labels, pretrained = trial.point["prepare.train_rows"], bool(trial.point["pretrain.steps"])
        values = [outcomes.values_of(file)["headline"] for file in part.test_files(trial)]
        other = scratch.get(labels) if pretrained else None
        gain = part.test_difference(trial, other) if other else None
        found.append(Measured(labels, trial.point["finetune.epochs"], pretrained, values, part.test(trial), gain))
    return sorted(found, key=lambda one: (one.labels, one.pretrained))


def _needed_sentences(
    needed: Mapping[str, Needed], target: float, metric: str, measured: Sequence[Measured], *, given: bool
) -> list[str]:
    if not needed:
        return ["No curve could be fitted, so that labels for a target are not known."]
    goal = f"{metric} {target:.4g}"
    if given:
        parts = [f"{_labels(one, measured)} {name}" for name, one in needed.items()]
        sentence = f"For {goal}, it takes {' and '.join(parts)}."
    else:
        sentence = f"Without pretraining, all {most(measured)} labels reach {goal}, by its curve."
        if WITH in needed:
            sentence += f" With pretraining, that takes {_labels(needed[WITH], measured)}."
    return [sentence, *_saving(needed, measured)]


def _saving(needed: Mapping[str, Needed], measured: Sequence[Measured]) -> list[str]:
    """Whether pretraining saves labels.

    Intervals of curves through few seeds are narrow: the models themselves must differ too, at SURE numbers of labels.
    """
    if WITH not in needed or WITHOUT not in needed:
        return []
    first, second = needed[WITH].labels, needed[WITHOUT].labels
    better = sum(one.gain is not None and one.gain.low > 0 for one in measured)
    worse = sum(one.gain is not None and one.gain.high < 0 for one in measured)
    if first.high < second.value and better >= SURE and not worse:
        if math.isinf(second.value):
            return ["Without pretraining, labels alone do not lead there."]
        return [f"Pretraining saves {1 - first.value / second.value:.0%} of the labels."]
    if first.low > second.value and worse >= SURE and not better:
        return ["Pretraining costs labels here: without it, fewer are needed."]
    return ["That pretraining saves labels does not show."]


def _labels(needed: Needed, measured: Sequence[Measured]) -> str:
    """A number of labels with its interval, and whether it lies beyond what was tried."""
    one, count = needed.labels, most(measured)
    if math.isinf(one.value):
        return "more labels than there can be (the curve never gets there)"
    if one.value > FAR * count:
        return f"more than {FAR * count:,} labels, by far beyond those that were tried"
    fewest = min(each.labels for each in measured)
    extent = [] if math.isnan(one.low) else [f"{_whole(one.low)} to {_whole(one.high)}"]
    extent += [f"beyond the {fewest:,} to {count:,} that were tried"] if needed.beyond else []
    return f"{one.value:,.0f} label{'' if round(one.value) == 1 else 's'}" + (
        f" ({'; '.join(extent)})" if extent else ""
    )


def _whole(number: float) -> str:
    return f"{number:,.0f}" if number < UNKNOWN else "any number"


def _more_sentences(measured: Sequence[Measured], curves: Curves, metric: str) -> list[str]:
    """What twice the labels would bring, by the curve of the way that is better with all labels."""
    count = most(measured)
    if not curves.by_name:
        return []

    def quality(name: str) -> float:
        curve = curves.by_name[name]
        return curve.predict(count).value * (1 if curve.higher_is_better else -1)

    name = max(curves.by_name, key=quality)
    curve = curves.by_name[name]
    doubled, now = (scaled(curve.predict(number), curves.scale) for number in (2 * count, count))
    sentence = (
        f"Twice the labels ({2 * count:,}) would bring {metric} {with_interval(doubled)} {name}, by its curve, "
        f"against {now.value:.4g} with {count:,}."
    )
    return [sentence]


def _quality(measured: Sequence[Measured], metric: str, left_out: Sequence[str]) -> Section:
    seeds = max(len(one.values) for one in measured)
    text = (
        f"Each number of labels is part of the larger ones, with {seeds} seeds; figures are of the test rows. All "
        "train for about the same number of steps: fewer labels are seen in more epochs, so that numbers of labels "
        "differ, and not the length of training. Seeds change pretraining too."
    )
    if left_out:
        text += "\n\nNot measured: " + "; ".join(left_out) + "."
    head = ["labels", "epochs", f"{WITHOUT}, {metric}", f"{WITH}, {metric}", "gain of pretraining"]
    body: list[list[Any]] = []
    for labels in sorted({one.labels for one in measured}):
        by_way = {one.pretrained: one for one in measured if one.labels == labels}
        cells = [by_way[way].test.as_dict() if way in by_way else "" for way in (False, True)]
        gain = by_way[True].gain if True in by_way else None
        epochs = next(iter(by_way.values())).epochs
        body.append([f"{labels:,}", str(epochs), *cells, gain.as_dict() if gain else ""])
    series = {
        name: [(one.labels, one.test.as_dict()) for one in measured if one.pretrained == way]
        for name, way in ((WITH, True), (WITHOUT, False))
    }
    drawn = charts.lines_log({name: line for name, line in series.items() if line}, x="labels", y=metric)
    return Section("Quality by labels", text, [Table("", head, body)], [figure(f"Test {metric} by labels", drawn)])


def _curves(
    measured: Sequence[Measured], curves: Curves, needed: Mapping[str, Needed], target: float, metric: str
) -> Section:
    known = {name: curve for name, curve in curves.by_name.items() if curve}
    if not known:
        return Section("Curves", f"No curve could be fitted: {curves.problem}.")
    text = (
        "error(n) = a + b n^-c at n labels (Cortes et al. 1993), fitted to all runs; a is the error that more labels "
        "do not remove. Intervals by bootstrap over seeds."
    )
    text += f"\n\nNot fitted: {curves.problem}." if curves.problem else ""
    head = ["", "a", "b", "c", f"labels for {metric} {target:.4g}", "beyond what was tried"]
    body: list[list[Any]] = [
        [
            name, *(_cell(value) for value in (curve.a, curve.b, curve.c)),
            _labels_cell(needed[name]), "yes" if needed[name].beyond else "no",
        ]
        for name, curve in known.items()
    ]  # fmt: skip
    labels = sorted({one.labels for one in measured})
    places = [*labels, 2 * labels[-1]]
    series = {
        name: [(float(place), scaled(curve.predict(place), curves.scale).as_dict()) for place in places]
        for name, curve in known.items()
    }
    drawn = charts.lines_log(series, x="labels", y=metric)
    return Section("Curves", text, [Table("", head, body)], [figure("By the curves, to twice the labels", drawn)])


def _cell(estimate: Estimate) -> Any:
    return (
        estimate.as_dict() if math.isfinite(estimate.low) and math.isfinite(estimate.high) else f"{estimate.value:.3g}"
    )


def _labels_cell(needed: Needed) -> str:
    one = needed.labels
    if math.isinf(one.value):
        return "never"
    return f"{_whole(one.value)}" + ("" if math.isnan(one.low) else f" ({_whole(one.low)} to {_whole(one.high)})")


def _finite(estimate: Mapping[str, float]) -> dict[str, float | None]:
    """For JSON, which knows no infinity."""
    return {end: value if math.isfinite(value) else None for end, value in estimate.items()}
