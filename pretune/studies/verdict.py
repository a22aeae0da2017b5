"""What a sweep has found, in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pretune.evaluation.metrics.bootstrap import Difference
from pretune.pages.units import interval
from pretune.studies.judge import Judge
from pretune.studies.results import Point, TrialResult


def describe(point: Point) -> str:
    """A point in a line: `learning_rate=0.0003 method=lora`, with the section only where a name occurs twice."""
    names = [key.rpartition(".")[2] for key in point]
    short = {key: name if names.count(name) == 1 else key for key, name in zip(point, names, strict=True)}
    return " ".join(f"{short[key]}={_short(value)}" for key, value in point.items()) or "params.yaml as it is"


def sentences(trials: Sequence[TrialResult], judge: Judge, test: Mapping[str, Any] | None) -> list[str]:
    """The winner, whether it is really better than the next, and its figure on the test rows."""
    best = judge.best(trials)
    if not best:
        return ["No trial is complete yet."]
    winner = best[0]
    value = judge.estimate(winner)
    seeds = f"{len(winner.seeds)} seeds" if len(winner.seeds) > 1 else "1 seed"
    figure = interval(value.value, value.low, value.high) if math.isfinite(value.low) else f"{value.value:.4g}"
    lines = [
        f"Best: trial {winner.number}, {describe(winner.point)}: {judge.metric} {figure} on validation rows, {seeds}."
    ]
    if len(best) > 1:
        lines.append(_against(best[1], judge.difference(winner, best[1]), judge.metric))
        noise = [trial.number for trial in best[1:] if _is_noise(judge.difference(winner, trial))]
        if len(noise) > 1:
            lines.append(
                f"{len(noise)} of {len(best) - 1} other trials cannot be told from it: "
                f"{', '.join(map(str, noise[:10]))}{' …' if len(noise) > 10 else ''}."
            )
    if test and test.get("number") == winner.number:
        estimate = test["estimate"]
        lines.append(
            f"On the test rows, which were looked at for this trial only: {judge.metric} "
            f"{interval(estimate['value'], estimate['low'], estimate['high'])}. "
            "The figure on validation rows is that of the best of many, and so a little too good."
        )
    return lines


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
        return min(f"{value:.4g}", f"{value:.3e}".replace("e-0", "e-").replace("e+0", "e"), key=len)
    return str(value)
