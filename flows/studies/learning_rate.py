"""Which learning rate? A range test brackets it, then a short sweep with several seeds measures it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flows.studies.study import Part, Result, Study
from pretune.errors import DataError
from pretune.evaluation.metrics.bootstrap import Estimate
from pretune.evaluation.report import charts as lines
from pretune.pages.render import Table
from pretune.studies import charts, range_test
from pretune.studies.page import Section, figure
from pretune.studies.range_test import Bracket, Plateau
from pretune.studies.results import Point

HIGHEST = 0.5  # the last rate of a range test; the first is 1/100,000 of it
STEPS = {"pretrain": 150, "finetune": 400, "align": 400}  # of a range test; few labelled rows make a noisy loss
NAMES = {"pretrain": "Pretraining", "finetune": "Finetuning", "align": "Alignment"}  # trainings, in their order
SHORT = 12  # the sweep of pretraining has one step for so many of params.yaml, and not fewer than its range test
QUESTION = "Which learning rate, for each training?"


@dataclass(frozen=True)
class Measured:
    """One training. bracket: None if the range test shows none. rates: those of the sweep, ascending."""

    stage: str
    metric: str
    higher: bool
    tested_rates: list[float]
    losses: list[float]
    bracket: Bracket | None
    rates: list[float]
    estimates: list[Estimate]
    plateau: Plateau
    steps: int


def run(study: Study, *, rates: int = 5) -> Result:
    """The study; rates: how many the sweep tries within the bracket."""
    seeds = study.seeds or 3
    there = {"pretrain": study.params.pretrain.steps, "finetune": True, "align": study.params.align}
    trainings = [_measure(study, stage, rates, seeds) for stage in NAMES if there[stage]]
    return conclude(trainings, study.commands(), seeds)


def conclude(trainings: Sequence[Measured], commands: list[str], seeds: int) -> Result:
    """The page: a section for each training, and how they differ."""
    sentences = [_sentence(training) for training in trainings]
    if [training.stage for training in trainings[:2]] == ["pretrain", "finetune"]:
        sentences.append(_compared(*trainings[:2]))
    data = {
        training.stage: {
            "bracket": asdict(training.bracket) if training.bracket else None, "plateau": asdict(training.plateau),
            "rates": training.rates, "estimates": [estimate.as_dict() for estimate in training.estimates],
        }
        for training in trainings
    }  # fmt: skip
    sections = [_section(training, seeds) for training in trainings]
    return Result("Learning rate", QUESTION, " ".join(sentences), sections, commands, data)


def within(bracket: Bracket, count: int) -> list[float]:
    """Rates for the sweep, ascending: in equal ratios through the bracket and one such ratio beyond its upper end.

    The range test looks at single steps, so that a rate that it bears may still be too high for a whole training.
    """
    low, high = bracket.low, min(bracket.high, 0.9)
    ratio = (high / low) ** (1 / max(1, count - 1))
    found = [low * ratio**number for number in range(count)]
    return list(dict.fromkeys(float(f"{rate:.2g}") for rate in found))


def _measure(study: Study, stage: str, count: int, seeds: int) -> Measured:
    test_rates, losses = _range_test(study, stage)
    try:
        bracket = range_test.bracket(test_rates, losses)
    except DataError:
        bracket = None
    own = getattr(study.params, stage).learning_rate
    around = [own * factor for factor in (0.1, 0.3, 3, 10) if own * factor < 1]
    rates = within(bracket, count) if bracket else [float(f"{rate:.2g}") for rate in around]
    rates = sorted({*rates, own})
    part, steps = _sweep(study, stage, rates, seeds)
    by_rate = {trial.point[f"{stage}.learning_rate"]: trial for trial in part.trials}
    missing = Estimate(math.nan, math.nan, math.nan)  # a run that diverged
    estimates = [part.estimates.get(by_rate[rate].number, missing) for rate in rates]
    higher = part.folder.higher[0]
    plateau = range_test.plateau(rates, estimates, higher)
    metric = "validation loss" if stage == "pretrain" else part.metric
    return Measured(stage, metric, higher, test_rates, losses, bracket, rates, estimates, plateau, steps)


def _range_test(study: Study, stage: str) -> tuple[list[float], list[float]]:
    """Rates and losses of one run whose rate grows; each is a mean over ten steps."""
    point: Point = {
        f"{stage}.schedule": "range", f"{stage}.learning_rate": HIGHEST, f"{stage}.max_skipped_steps": 10**6,
        f"{stage}.ema_decay": 0.0, f"{stage}.patience": 0, f"{stage}.metric_for_best_model": "last",
    }  # fmt: skip
    if stage == "pretrain":
        point |= {"pretrain.steps": STEPS[stage], "pretrain.evaluate_every": STEPS[stage]}
        part = study.sweep("range-pretrain", [point], seeds=1, metric="pretrain.loss", tested="none")
    else:
        point |= {f"{stage}.epochs": _epochs(study, stage), f"{stage}.calibrate": False}
        ends = stage if study.params.align else None  # a finetuning at every rate is nothing to align
        part = study.sweep(f"range-{stage}", [point], seeds=1, metric="loss", tested="none", last=ends)
    curve = part.outcome(part.best(part.trials), 0)["curves"][stage]
    rows = [row for row in curve if "loss" in row]
    return [row["learning_rate"] for row in rows], [row["loss"] for row in rows]


def _sweep(study: Study, stage: str, rates: Sequence[float], seeds: int) -> tuple[Part, int]:
    points = [{f"{stage}.learning_rate": rate} for rate in rates]
    if stage != "pretrain":
        return study.sweep(stage, points, seeds=seeds, tested="none"), 0
    steps = min(study.params.pretrain.steps, max(STEPS["pretrain"], study.params.pretrain.steps // SHORT))
    short: Point = {"pretrain.steps": steps, "pretrain.evaluate_every": steps}
    part = study.sweep(
        "pretrain", [point | short for point in points], seeds=min(seeds, 2), metric="pretrain.loss", tested="none"
    )
    return part, steps


def _epochs(study: Study, stage: str) -> int:
    """The epochs that take about STEPS, by the number of rows in params.yaml."""
    seen: int = STEPS[stage] * getattr(study.params, stage).batch_size
    return max(1, round(seen / (study.params.prepare.train_rows or seen)))


def _sentence(training: Measured) -> str:
    plateau, name = training.plateau, NAMES[training.stage]
    span = f"from {plateau.low:.2g} to {plateau.high:.2g}" if plateau.low < plateau.high else f"at {plateau.low:.2g}"
    words = f"{name} is best at {plateau.best:.2g}; {span} no difference shows."
    return " ".join([words, *_edges(training)])


def _edges(training: Measured) -> list[str]:
    sides = {"below": training.plateau.left_edge, "above": training.plateau.right_edge}
    parts = []
    for side, edge in sides.items():
        if edge is None:
            parts.append(f"{side} it nothing was tried")
        elif math.isinf(edge):
            parts.append(f"{side} it training diverges")
        else:
            unit = "is lost" if training.higher else "is added"
            parts.append(f"{side} it {abs(edge):.2g} {training.metric} {unit} per factor of 2")
    return [parts[0][0].upper() + parts[0][1:] + ", " + parts[1] + "."]


def _compared(pretraining: Measured, finetuning: Measured) -> str:
    ratio = pretraining.plateau.best / finetuning.plateau.best
    if ratio >= 2:
        return f"Finetuning wants a rate {ratio:.0f} times smaller than pretraining."
    if ratio <= 0.5:
        return f"Here finetuning bears a rate {1 / ratio:.0f} times larger than pretraining."
    return "Both want about the same rate here."


def _section(training: Measured, seeds: int) -> Section:
    bracket = training.bracket
    text = (
        f"Range test: one run of {STEPS[training.stage]} steps in which the rate grows (Smith 2017). The loss falls "
        f"from {bracket.low:.2g} on, fastest at {bracket.steepest:.2g}, and rises after {bracket.high:.2g}."
        if bracket
        else "Range test: the loss did not fall and rise clearly, so the sweep is around the rate of params.yaml."
    )
    number = min(seeds, 2) if training.stage == "pretrain" else seeds
    shortened = f", {training.steps} steps each" if training.steps else ""
    text += f"\n\nThen a sweep over {len(training.rates)} rates with {number} seeds{shortened}, on the validation rows."
    points = list(zip(training.rates, (estimate.as_dict() for estimate in training.estimates), strict=True))
    finite = [(rate, estimate) for rate, estimate in points if math.isfinite(estimate["value"])]
    table = Table(
        "", ["rate", training.metric, "plateau"],
        [[f"{rate:.2g}", estimate if math.isfinite(estimate["value"]) else "diverged",
          "yes" if training.plateau.low <= rate <= training.plateau.high else ""] for rate, estimate in points],
    )  # fmt: skip
    logs = [(math.log10(rate), loss) for rate, loss in zip(training.tested_rates, training.losses, strict=True)]
    figures: list[Any] = [figure("Range test", lines.lines({"loss": logs}, x="log10 of the rate", y="training loss"))]
    drawn = [(rate, _drawable(estimate)) for rate, estimate in finite]
    figures.append(figure("Sweep", charts.lines_log({training.metric: drawn}, x="learning rate", y=training.metric)))
    return Section(NAMES[training.stage], text, [table], figures)


def _drawable(estimate: dict[str, float]) -> dict[str, float]:
    """An estimate without an interval is drawn as a point."""
    value = estimate["value"]
    return {key: number if math.isfinite(number) else value for key, number in estimate.items()}
