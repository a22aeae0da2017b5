"""Does more or other unlabelled text help? Shares of the corpus, or mixtures of sources, at equal steps."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flows.studies.study import Part, Result, Study, with_interval
from pretune.errors import ParamsError
from pretune.evaluation.metrics.bootstrap import Difference, Estimate
from pretune.pages.render import Table
from pretune.studies import charts, space
from pretune.studies.page import Section, figure
from pretune.studies.results import Point, TrialResult
from pretune.studies.spread import spread
from pretune.studies.verdict import describe

QUESTION = "Does more or other unlabelled text help?"
SHARE = "prepare.corpus_share"
SHARES = (0.1, 0.25, 0.5, 1.0)
NOT_STOPPED = ["pretrain.patience=0"]  # equal steps


@dataclass(frozen=True)
class Measured:
    """A model pretrained on some of the texts.

    name: of the point; share: of the corpus, NaN for mixtures. bits: validation loss of pretraining, bits per token, by
    seed; [] where nothing watched it. gain: over the first of mixtures, or over the next smaller share; over_least:
    over the smallest share; both None for the first.
    """

    name: str
    share: float
    bits: list[float]
    test: Estimate
    gain: Difference | None
    over_least: Difference | None


def run(study: Study, *, vary: Sequence[str] = (), shares: Sequence[float] = SHARES) -> Result:
    """The study. vary: KEY=VALUES as for a sweep, instead of shares of the corpus; the first point is compared with.

    ParamsError without pretraining, or for less than two points.
    """
    given = [vary] if isinstance(vary, str) else list(vary)
    tried = points(given, shares)
    if not study.params.pretrain.steps:
        raise ParamsError("the study of data pretrains, and pretrain.steps is 0", "raise pretrain.steps in params.yaml")
    name = "mixtures" if given else "shares"
    part = study.sweep(name, tried, seeds=study.seeds or 3, metric="headline", overridden=NOT_STOPPED)
    commands = study.commands()
    commands[0] += "".join(f" --vary {shlex.quote(one)}" for one in given)
    left = [f"{describe(trial.point)}: {trial.note}" for trial in part.trials if trial.state != "complete"]
    return conclude(_measured(part, tried), part.metric, commands, left_out=left)


def points(vary: Sequence[str], shares: Sequence[float] = SHARES) -> list[Point]:
    """Shares of the corpus, the smallest first, or all points of the space that `vary` describes."""
    found = space.parse(vary).grid() if vary else [{SHARE: float(share)} for share in sorted(set(shares))]
    if len(found) < 2:
        raise ParamsError(
            f"{len(found)} point: nothing to compare", "pretune study data --vary 'ingest.source=a.txt,[a.txt, b.txt]'"
        )
    return found


def conclude(measured: Sequence[Measured], metric: str, commands: list[str], *, left_out: Sequence[str] = ()) -> Result:
    """The page. measured: in the order of the points; shares ascend. left_out: what did not run, and why."""
    mixtures = math.isnan(measured[0].share)
    answer = _mixtures_sentence(measured, metric) if mixtures else _shares_sentence(measured, metric)
    section = _section(measured, metric, left_out, mixtures=mixtures)
    data = {
        "metric": metric,
        "measured": [
            {
                "name": one.name, "share": None if mixtures else one.share, "bits": one.bits,
                "test": one.test.as_dict(), "gain": _plain(one.gain), "over_least": _plain(one.over_least),
            }
            for one in measured
        ],
    }  # fmt: skip
    return Result("Unlabelled text", QUESTION, answer, [section], commands, data)


def _measured(part: Part, tried: Sequence[Point]) -> list[Measured]:
    complete = {describe(trial.point): trial for trial in part.complete()}
    trials = [complete[describe(point)] for point in tried if describe(point) in complete]
    if not trials:
        part.best(part.trials)  # raises
    shares = all(set(point) == {SHARE} for point in tried)
    found = []
    for number, trial in enumerate(trials):
        before = trials[number - 1 if shares else 0]
        found.append(Measured(
            describe(trial.point), trial.point[SHARE] if shares else math.nan, _bits(part, trial), part.test(trial),
            part.test_difference(trial, before) if number else None,
            part.test_difference(trial, trials[0]) if number else None,
        ))  # fmt: skip
    return found


def _bits(part: Part, trial: TrialResult) -> list[float]:
    """The last validation loss of pretraining, by seed; [] where it was not watched."""
    curves = [part.outcome(trial, seed.seed)["curves"].get("pretrain", []) for seed in trial.seeds]
    last = [[row["validation_loss"] for row in curve if "validation_loss" in row][-1:] for curve in curves]
    found = [loss / math.log(2) for losses in last for loss in losses]
    return found if len(found) == len(trial.seeds) else []


def _shares_sentence(measured: Sequence[Measured], metric: str) -> str:
    least, most = measured[0], measured[-1]
    if most.over_least is None or most.gain is None:
        return f"Only one share could be measured: {metric} {with_interval(most.test)}."
    start = (
        f"Pretrained on {least.share:.0%} of the texts, the model reaches {metric} {with_interval(least.test)}; on "
        f"{most.share:.0%}, {with_interval(most.test)}, at equal steps."
    )
    gained = with_interval(most.over_least, sign=True)
    if most.over_least.high < 0:
        return f"{start} More unlabelled text makes it worse: {gained}."
    if not most.over_least.low > 0:
        return f"{start} That more unlabelled text helps does not show: {gained}."
    last = f"from {measured[-2].share:.0%} to {most.share:.0%} it is {with_interval(most.gain, sign=True)}"
    if most.gain.low > 0:
        return f"{start} More unlabelled text helps: {gained}; {last}, so that still more of it may help too."
    return f"{start} More unlabelled text helps: {gained}; but {last}: there the gain does not show any more."


def _mixtures_sentence(measured: Sequence[Measured], metric: str) -> str:
    first, *others = measured
    start = f"With {first.name}, {metric} is {with_interval(first.test)}."
    better = [one for one in others if one.gain and one.gain.low > 0]
    worse = [one for one in others if one.gain and one.gain.high < 0]
    if better:
        named = "; ".join(f"{one.name}, {with_interval(one.gain, sign=True)}" for one in better if one.gain)
        return f"{start} Significantly better: {named}."
    if worse and len(worse) == len(others):
        return f"{start} Every other choice is significantly worse."
    gains = "; ".join(f"{one.name}: {with_interval(one.gain, sign=True)}" for one in others if one.gain)
    return f"{start} That another choice is better does not show: {gains}." if gains else start


def _section(measured: Sequence[Measured], metric: str, left_out: Sequence[str], *, mixtures: bool) -> Section:
    text = (
        "Each model is pretrained for the same number of steps and finetuned on the same labelled rows; figures are of "
        "the test rows, with seeds for pretraining and finetuning. "
    )
    if mixtures:
        text += (
            "Gains are over the first choice. Losses of different tokenizers or texts cannot be compared: each "
            "is of sequences of its own corpus."
        )
    else:
        text += (
            "Fewer texts are seen more often. A smaller share is part of a larger one; all have the tokenizer of the "
            "whole corpus. The loss is that of sequences that each share keeps out of training."
        )
    text += f"\n\nNot measured: {'; '.join(left_out)}." if left_out else ""
    head = ["texts", "loss of pretraining, bits per token", f"test {metric}", "over the first"]
    head += [] if mixtures else ["over the share before"]
    body: list[list[Any]] = []
    for one in measured:
        name = one.name if mixtures else f"{one.share:.0%}"
        cells = [_interval(one.bits), one.test.as_dict(), _plain(one.over_least) or ""]
        body.append([name, *cells, *([] if mixtures else [_plain(one.gain) or ""])])
    title = "Choices" if mixtures else "Shares of the corpus"
    return Section(title, text, [Table("", head, body)], _figures(measured, metric, mixtures=mixtures))


def _figures(measured: Sequence[Measured], metric: str, *, mixtures: bool) -> list[Any]:
    if mixtures:
        values = {one.name: (one.test.value, one.test.low, one.test.high) for one in measured}
        return [figure(f"Test {metric}", charts.bars(values, metric))]
    quality = [(100 * one.share, one.test.as_dict()) for one in measured]
    losses = [(100 * one.share, _ends(one.bits)) for one in measured if one.bits]
    drawn = [figure(f"Test {metric} by share", charts.lines_log({metric: quality}, x="% of the texts", y=metric))]
    if losses:
        chart = charts.lines_log({"loss": losses}, x="% of the texts", y="bits per token")
        drawn.append(figure("Validation loss of pretraining", chart))
    return drawn


def _interval(values: Sequence[float]) -> Any:
    """The mean with its interval over seeds, for a table."""
    if not values:
        return ""
    one = _ends(values)
    return {end: round(value, 4) for end, value in one.items()} if len(values) > 1 else f"{one['value']:.4g}"


def _ends(values: Sequence[float]) -> Mapping[str, float]:
    if len(values) < 2:
        return {"value": values[0], "low": math.nan, "high": math.nan}
    found = spread(values)
    return {"value": found.mean, "low": found.low, "high": found.high}


def _plain(estimate: Difference | None) -> dict[str, float] | None:
    return estimate.as_dict() if estimate else None
