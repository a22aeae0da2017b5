"""How much is luck? The same run over seeds: the spread of each metric, and the differences that a test can show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from flows.studies.study import Result, Study
from pretune.config.params import Params
from pretune.errors import ParamsError
from pretune.evaluation.report import charts as lines
from pretune.pages.render import Table
from pretune.studies import luck, outcomes
from pretune.studies.luck import Luck
from pretune.studies.page import Section, figure
from pretune.studies.results import Point
from pretune.studies.settings import SHARES, bounds
from pretune.studies.strips import strips

QUESTION = "How much is luck?"
VARIED = {"finetune": "finetuning", "pretrain": "pretraining and finetuning"}
SEEDS = 5
POINT = 0.01  # of a metric that is a share; of others, this part of the mean
SHOWN = (2, 3, 5, 10, 20)  # seeds each


def run(study: Study, *, vary: Sequence[str] = ("finetune",)) -> Result:
    """The study. vary: the first training whose seed changes, `finetune` or `pretrain`; those after it change too."""
    seeds = SEEDS if study.seeds is None else study.seeds
    stage = _checked(vary, seeds, study.params)
    part = study.sweep(stage, [point(study.params, stage)], seeds=seeds, metric="headline")
    predictions = [outcomes.predictions(file) for file in part.test_files(part.best(part.trials))]
    evaluate = study.params.evaluate
    found = luck.measure(
        predictions, samples=evaluate.bootstrap_samples, confidence=evaluate.confidence, seed=study.params.seed
    )
    commands = study.commands()
    commands[0] += "" if stage == "finetune" else f" --vary {stage}"
    return conclude(found, stage, commands)


def point(params: Params, stage: str) -> Point:
    """The only point: params.yaml as it is. Its key says which training has a seed of its own for each run."""
    return {f"{stage}.learning_rate": getattr(params, stage).learning_rate}


def conclude(found: Mapping[str, Luck], stage: str, commands: list[str]) -> Result:
    """The page: what each metric does over seeds, and what differences can be shown. found: the headline first."""
    headline = next(iter(found))
    sections = [_spreads(found, stage), _power(found)]
    data = {
        "metrics": {
            name: {
                "values": one.values, "spread": asdict(one.spread), "by_rows": one.by_rows, "one_seed": one.one_seed,
                "with_seeds": {str(seeds): one.with_seeds(seeds) for seeds in SHOWN},
            }
            for name, one in found.items()
        },
        "headline": headline, "vary": stage, "rows": found[headline].rows,
    }  # fmt: skip
    return Result("Seeds", QUESTION, _sentence(headline, found[headline], stage), sections, commands, data)


def _checked(vary: Sequence[str], seeds: int, params: Params) -> str:
    problems = []
    named = [vary] if isinstance(vary, str) else list(vary)
    if len(named) != 1 or named[0] not in VARIED:
        problems.append(f"--vary is finetune or pretrain, not {', '.join(named) or 'empty'}")
    elif named == ["pretrain"] and not params.pretrain.steps:
        problems.append("--vary pretrain: pretrain.steps is 0, so that there is no pretraining")
    if seeds < 2:
        problems.append(f"{seeds} seed shows no spread: two at least")
    if problems:
        raise ParamsError(problems, "pretune study seeds --vary finetune --seeds 5")
    return named[0]


def _sentence(metric: str, one: Luck, stage: str) -> str:
    values, seeds = one.spread, one.spread.seeds
    start = (
        f"Over {seeds} seeds of {VARIED[stage]}, {metric} is {_figure(metric, values.mean)} on average, from "
        f"{_figure(metric, min(one.values))} to {_figure(metric, max(one.values))}."
    )
    if values.sd == 0:
        return f"{start} The seed changes nothing: runs that differ in it only are no evidence."
    compared = _compared(metric, one.one_seed, one.with_seeds(seeds), seeds)
    step = _step(metric, one)
    needed = one.seeds_needed(step)
    last = f" A difference of {difference(metric, step)} takes {needed} seeds each." if needed else ""
    return f"{start} {compared}{last}"


def _compared(metric: str, one: float, several: float, seeds: int) -> str:
    """How far two models must be apart; a metric may have no room for that."""
    low, high = bounds(metric)
    known = [f"by {difference(metric, size)}" if size < high - low else "" for size in (one, several)]
    if not known[1]:
        return f"Neither with one seed each nor with {seeds} is any difference of {metric} more than luck."
    if not known[0]:
        return (
            f"With one seed each, no difference of {metric} is more than luck; with {seeds} seeds each, two models "
            f"must differ {known[1]}."
        )
    return (
        f"With one seed each, two models must differ {known[0]} before it is more than luck; with {seeds} seeds each, "
        f"{known[1]}."
    )


def difference(metric: str, size: float) -> str:
    """A difference of a metric in words: points (of a hundred) of those that are shares."""
    if metric in SHARES:
        points = f"{100 * size:.2g}" if size < 1 else f"{100 * size:.0f}"  # two digits
        return f"{points} {'point' if points == '1' else 'points'} of {metric}"
    return f"{size:.2g} of {metric}"


def _step(metric: str, one: Luck) -> float:
    """A difference that people ask for: one point, or a hundredth of the mean."""
    return POINT if metric in SHARES else POINT * abs(one.spread.mean)


def _figure(metric: str, value: float) -> str:
    return f"{value:.3f}" if metric in SHARES else f"{value:.4g}"


def _spreads(found: Mapping[str, Luck], stage: str) -> Section:
    first = next(iter(found.values()))
    text = (
        f"{first.spread.seeds} runs of params.yaml on the same rows; the seed of {VARIED[stage]} changes, the splits "
        f"do not. Figures are of the {first.rows} test rows; intervals are those of the mean and of the standard "
        "deviation, if seeds vary normally."
    )
    ends = {name: _within(name, one) for name, one in found.items()}
    head = ["metric", "mean", "standard deviation", "lowest", "highest"]
    body: list[list[Any]] = [
        [
            name, {"value": one.spread.mean, "low": ends[name][0], "high": ends[name][1]},
            {"value": one.spread.sd, "low": one.spread.sd_low, "high": one.spread.sd_high},
            _figure(name, min(one.values)), _figure(name, max(one.values)),
        ]
        for name, one in found.items()
    ]  # fmt: skip
    headline = next(iter(found))
    drawn = [name for name in found if name in SHARES] if headline in SHARES else [headline]
    rows = {name: (found[name].values, *ends[name]) for name in drawn}
    dots = figure("Each dot is a seed", strips(rows, "on the test rows" if headline in SHARES else headline))
    return Section("Spread", text, [Table("", head, [[row[0], *map(_rounded, row[1:])] for row in body])], [dots])


def _within(metric: str, one: Luck) -> tuple[float, float]:
    """The interval of the mean, cut off where the metric ends."""
    low, high = bounds(metric)
    return max(low, one.spread.low), min(high, one.spread.high)


def _power(found: Mapping[str, Luck]) -> Section:
    headline, first = next(iter(found.items()))
    text = (
        "True differences that a two-sided test at the level of 5 % finds in 80 of 100 cases. Rows: two given models "
        f"compared on these {first.rows} rows, if they disagree as two seeds do. One seed each: two ways of training, "
        "by seeds and rows together; how much seeds vary is known from the runs above. More seeds: the means of so "
        "many runs of each way, on these rows.\n\n"
        "Two very different models disagree on more rows than two seeds do, and need a larger difference."
    )
    head = ["metric", "rows", "one seed each", *(f"{seeds} seeds each" for seeds in SHOWN)]
    body = [
        [name, *map(_small, (one.by_rows, one.one_seed, *(one.with_seeds(seeds) for seeds in SHOWN)))]
        for name, one in found.items()
    ]
    curve = [(float(seeds), first.with_seeds(seeds)) for seeds in range(2, 21)]
    drawn = lines.lines({headline: curve}, x="seeds each", y="difference that shows", marks=True)
    return Section(
        "Differences that can be shown", text, [Table("", head, body)],
        [figure(f"Smallest difference of {headline} by seeds", drawn)],
    )  # fmt: skip


def _small(value: float) -> str:
    return f"{value:.2g}"


def _rounded(cell: Any) -> Any:
    """An estimate in four digits; without its interval where that is not finite."""
    if not isinstance(cell, dict):
        return cell
    if not all(map(math.isfinite, cell.values())):
        return f"{cell['value']:.4g}"
    return {end: float(f"{value:.4g}") for end, value in cell.items()}
