"""What a sweep has found, in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pretune.evaluation.metrics.bootstrap import Difference
from pretune.pages.units import interval
from pretune.studies.judge import Judge, pareto
from pretune.studies.results import Point, TrialResult

SHOWN = 10  # trials that a sentence lists
ENDS = {
    "pruned": ("was pruned", "were pruned"),
    "failed": ("failed", "failed"),
    "left out": ("was left out (does not fit into memory)", "were left out (do not fit into memory)"),
}


def describe(point: Point) -> str:
    """A point in a line: `learning_rate=0.0003 method=lora`, with the section only where a name occurs twice."""
    names = [key.rpartition(".")[2] for key in point]
    short = {key: name if names.count(name) == 1 else key for key, name in zip(point, names, strict=True)}
    return " ".join(f"{short[key]}={_short(value)}" for key, value in point.items()) or "params.yaml as it is"


@dataclass(frozen=True)
class Objectives:
    """The metrics of a multi-objective search. values: by complete trial, one for each metric."""

    names: Sequence[str]
    higher: Sequence[bool]
    values: Mapping[int, Sequence[float]]


def sentences(
    trials: Sequence[TrialResult],
    judge: Judge,
    test: Mapping[str, Any] | None,
    objectives: Objectives | None = None,
    *,
    only: bool = True,
) -> list[str]:
    """The winner, whether it is really better than the next, its figure on the test rows, and what did not end well.

    test: of the winner. only: whether the test rows were looked at for the winner only. objectives: if there are
    several.
    """
    best = judge.best(trials)
    if not best:
        return ["No trial is complete yet.", *_incomplete(trials)]
    lines = [_winner(best[0], judge), *_comparisons(best, judge)]
    if objectives and len(objectives.names) > 1:
        lines.append(_front(trials, objectives))
    lines += _incomplete(trials)
    if test and test.get("number") == best[0].number:
        lines.append(_tested(judge.metric, test["estimate"], only=only))
    return lines


def _winner(winner: TrialResult, judge: Judge) -> str:
    value = judge.estimate(winner)
    seeds = f"{len(winner.seeds)} seeds" if len(winner.seeds) > 1 else "1 seed"
    figure = interval(value.value, value.low, value.high) if math.isfinite(value.low) else f"{value.value:.4g}"
    return (
        f"Best: trial {winner.number}, {describe(winner.point)}: {judge.metric} {figure} on validation rows, {seeds}."
    )


def _comparisons(best: Sequence[TrialResult], judge: Judge) -> list[str]:
    """The best with the next one, and how many others it cannot be told from."""
    differences = {trial.number: judge.difference(best[0], trial) for trial in best[1:]}
    if not differences:
        return []
    lines = [_against(best[1], differences[best[1].number], judge.metric)]
    noise = [number for number, difference in differences.items() if _is_noise(difference)]
    if len(noise) > 1:
        lines.append(
            f"{len(noise)} of {len(differences)} other trials cannot be told from it: "
            f"{', '.join(map(str, noise[:SHOWN]))}{' …' if len(noise) > SHOWN else ''}."
        )
    return lines


def _incomplete(trials: Sequence[TrialResult]) -> list[str]:
    """How many trials did not end well, as `3 trials were pruned, 1 failed`."""
    parts: list[str] = []
    for state, (one, more) in ENDS.items():
        if count := sum(trial.state == state for trial in trials):
            noun = "" if parts else " trial" if count == 1 else " trials"
            parts.append(f"{count}{noun} {one if count == 1 else more}")
    return [f"{', '.join(parts)}."] if parts else []


def _front(trials: Sequence[TrialResult], objectives: Objectives) -> str:
    """The trials of the Pareto front, with their values."""
    points = {trial.number: trial.point for trial in trials}
    front = pareto(objectives.values, objectives.higher)
    listed = [
        f"trial {number} ({describe(points[number])}): "
        + ", ".join(f"{value:.4g}" for value in objectives.values[number])
        for number in front[:SHOWN]
    ]
    names = f"{', '.join(objectives.names[:-1])} and {objectives.names[-1]}"
    more = " …" if len(front) > SHOWN else ""
    return f"The best trade-offs between {names} (Pareto front): {'; '.join(listed)}{more}."


def _tested(metric: str, estimate: Mapping[str, float], *, only: bool) -> str:
    looked = ", which were looked at for this trial only" if only else ""
    return (
        f"On the test rows{looked}: {metric} {interval(estimate['value'], estimate['low'], estimate['high'])}. "
        "The figure on validation rows is that of the best of many, and so a little too good."
    )


def _is_noise(difference: Difference) -> bool:
    return not difference.low > 0


def _against(other: TrialResult, difference: Difference, metric: str) -> str:
    name = f"trial {other.number} ({describe(other.point)})"
    if not math.isfinite(difference.low):
        return f"The next is {name}, {difference.value:+.4g} {metric}: with one seed and no rows, nobody can say more."
    figures = f"{interval(difference.value, difference.low, difference.high, sign=True)}, p = {difference.p:.2g}"
    if _is_noise(difference):
        return (
            f"Over {name} its gain is {figures}: that is noise with these rows and seeds; take the cheaper of the two."
        )
    return f"It is significantly better than {name}: {figures}."


def _short(value: Any) -> str:
    if isinstance(value, float):
        texts = (text.replace("e-0", "e-").replace("e+0", "e") for text in (f"{value:.4g}", f"{value:.3e}"))
        return min(texts, key=len)
    return str(value)
