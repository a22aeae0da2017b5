"""The pages of a sweep and of a study: HTML files that hold all they show, and a study as Markdown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretune.evaluation.metrics.bootstrap import Estimate
from pretune.evaluation.names import COSTS
from pretune.pages.render import Table, render
from pretune.pages.units import si
from pretune.studies import charts
from pretune.studies.drawing import LOG_RATIO, standalone, value_text
from pretune.studies.markdown import file_name, table_markdown, text_markdown
from pretune.studies.results import TrialResult

if TYPE_CHECKING:
    from pretune.evaluation.report.page import Figure  # it imports torch

FOLDER = Path(__file__).parent
SHOWN_COSTS = {"seconds": "seconds", "flops": COSTS["flops"], "memory_gb": "GB of memory"}
STATES = ("complete", "pruned", "running", "failed", "left out")  # in the order of the table


@dataclass(frozen=True)
class Section:
    """A part of a study's page. text: paragraphs, with an empty line between them; tables have titles of their own."""

    title: str
    text: str = ""
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)

    @property
    def paragraphs(self) -> list[str]:
        """The text, cut at its empty lines."""
        return [paragraph.strip() for paragraph in self.text.split("\n\n") if paragraph.strip()]


def figure(title: str, svg: str, *, any_width: bool = False) -> Figure:
    """A chart with its title. any_width: it may be wider than 400 pixels."""
    return {"title": title, "svg": svg, "any_width": any_width}


def render_sweep(
    *,
    name: str,
    command: str,
    metric: str,
    higher: bool,
    trials: Sequence[TrialResult],
    estimates: Mapping[int, Estimate],
    sentences: Sequence[str],
    importance: Mapping[str, float],
    commands: Mapping[str, str],
    test: Mapping[str, Any] | None,
) -> str:
    """The page of a sweep.

    command: what started it. higher: whether a higher metric is better. estimates: the mean of the metric with its
    interval, by trial number; it counts instead of the trial's own mean. sentences: the verdict; the first leads.
    importance: by parameter, shares of 1. commands: what each does, and the command. test: what the winner reaches on
    the test rows, by metric: estimates, {value, low, high}, numbers or texts.
    """
    ranked = ranking(trials, estimates, higher=higher)
    keys = list(dict.fromkeys(key for trial in trials for key in trial.point))
    costs = [cost for cost in SHOWN_COSTS if any(trial.cost(cost) is not None for trial in trials)]
    return render(
        FOLDER / "sweep.html.j2",
        name=name,
        metric=metric,
        direction="higher" if higher else "lower",
        sentences=list(sentences),
        keys=dict(zip(keys, short_keys(keys), strict=True)),
        costs=[SHOWN_COSTS[cost] for cost in costs],
        trials=_rows(ranked, estimates, costs),
        test=Table(
            "On the test rows", ["", "best trial"], [[key, _cell(value)] for key, value in (test or {}).items()]
        ),
        search=_search(ranked, estimates, importance, metric, higher=higher),
        importance=bool(importance),
        parallel=_parallel(ranked, estimates, metric, higher=higher),
        training=_training(ranked, estimates, metric, higher=higher),
        commands=[("This sweep", command), *commands.items()],
    )


def ranking(trials: Sequence[TrialResult], estimates: Mapping[int, Estimate], *, higher: bool) -> list[TrialResult]:
    """The trials by state, complete ones first, and within a state the best first."""

    def key(trial: TrialResult) -> tuple[int, bool, float, int]:
        value = _value(trial, estimates)
        known = math.isfinite(value)
        return STATES.index(trial.state), not known, (-value if higher else value) if known else 0.0, trial.number

    return sorted(trials, key=key)


def _value(trial: TrialResult, estimates: Mapping[int, Estimate]) -> float:
    return estimates[trial.number].value if trial.number in estimates else trial.value


def _best(ranked: Sequence[TrialResult], estimates: Mapping[int, Estimate]) -> TrialResult | None:
    first = next(iter(ranked), None)
    known = first is not None and first.state == "complete" and math.isfinite(_value(first, estimates))
    return first if known else None


def short_keys(keys: Sequence[str]) -> list[str]:
    """The shortest ends of dotted keys that no two share: learning_rate, or finetune.learning_rate."""

    def ends(key: str) -> list[str]:
        parts = key.split(".")
        return [".".join(parts[first:]) for first in reversed(range(len(parts)))]

    counts = Counter(end for key in keys for end in ends(key))
    return [next((end for end in ends(key) if counts[end] == 1), key) for key in keys]


def _rows(
    ranked: Sequence[TrialResult], estimates: Mapping[int, Estimate], costs: Sequence[str]
) -> list[dict[str, Any]]:
    best = _best(ranked, estimates)
    return [
        {
            "number": trial.number,
            "best": trial is best,
            "state": trial.state,
            "values": {key: value_text(value) for key, value in trial.point.items()},
            "estimate": _cell(estimates.get(trial.number, trial.value)),
            "seeds": len(trial.seeds),
            "costs": [_cost(trial, cost) for cost in costs],
            "note": trial.note,
        }
        for trial in ranked
    ]


def _cost(trial: TrialResult, name: str) -> str:
    value = trial.cost(name)
    if value is None or not math.isfinite(value):
        return "-"
    return si(value) if name == "flops" else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _cell(value: Any) -> Any:
    """What a table shows: an estimate if its interval is known, else the value alone; a dash if there is none."""
    if isinstance(value, Estimate):
        value = asdict(value)
    if isinstance(value, Mapping):
        ends = [value.get(end, math.nan) for end in ("value", "low", "high")]
        return dict(value) if all(map(math.isfinite, ends)) else _cell(ends[0])
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else "-"
    return value


def _search(
    ranked: Sequence[TrialResult],
    estimates: Mapping[int, Estimate],
    importance: Mapping[str, float],
    metric: str,
    *,
    higher: bool,
) -> list[Figure]:
    values = [(trial.number, _value(trial, estimates), trial.state) for trial in ranked]
    shares = {key: (importance[key], None, None) for key in sorted(importance, key=lambda key: -importance[key])}
    drawn = {
        "History": charts.history(values, metric, higher),
        "Importance of the parameters": charts.bars(shares, "share of the variance"),
    }
    return [figure(title, svg) for title, svg in drawn.items() if svg]


def _parallel(
    ranked: Sequence[TrialResult], estimates: Mapping[int, Estimate], metric: str, *, higher: bool
) -> list[Figure]:
    points = [(trial.point, _value(trial, estimates)) for trial in ranked if trial.state == "complete"]
    svg = charts.parallel_coordinates(points, metric, higher)
    return [figure("", svg, any_width=True)] if svg else []


def _training(
    ranked: Sequence[TrialResult], estimates: Mapping[int, Estimate], metric: str, *, higher: bool
) -> list[Figure]:
    best = _best(ranked, estimates)
    series = {f"trial {trial.number}": _curve(trial) for trial in ranked}
    costs = [
        (seconds, _value(trial, estimates), str(trial.number))
        for trial in ranked
        if trial.state == "complete" and (seconds := trial.cost("seconds")) is not None
    ]
    drawn = {
        "Learning curves": charts.curves(series, x="step", y=metric, best=f"trial {best.number}" if best else ""),
        "Quality against time, by trial": charts.scatter_labelled(
            costs, "seconds", metric, _spans([seconds for seconds, _, _ in costs]), higher=higher
        ),
    }
    return [figure(title, svg) for title, svg in drawn.items() if svg]


def _curve(trial: TrialResult) -> list[tuple[float, float]]:
    """The mean over the seeds, at the steps that all of them have."""
    curves = [dict(seed.curve) for seed in trial.seeds if seed.curve]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    return [(float(step), sum(curve[step] for curve in curves) / len(curves)) for step in steps]


def _spans(values: Sequence[float]) -> bool:
    """Whether the values need a logarithmic axis."""
    return bool(values) and min(values) > 0 and max(values) / min(values) >= LOG_RATIO


def render_study(
    *, title: str, question: str, answer: str, sections: Sequence[Section], commands: Sequence[str]
) -> str:
    """The page of a study. answer: a plain sentence; it leads the page and ends it."""
    values = {"title": title, "question": question, "answer": answer}
    return render(FOLDER / "study.html.j2", sections=list(sections), commands=list(commands), **values)


def study_markdown(
    *, title: str, question: str, answer: str, sections: Sequence[Section], commands: Sequence[str]
) -> tuple[str, dict[str, str]]:
    """The same page as Markdown, and its figures: {file name: svg}, to be written beside it."""
    files: dict[str, str] = {}
    parts = [f"# {text_markdown(title)}", text_markdown(question), f"**{text_markdown(answer)}**"]
    for section in sections:
        parts.append(f"## {text_markdown(section.title)}")
        parts += [text_markdown(paragraph) for paragraph in section.paragraphs]
        for drawn in section.figures:
            file = _new_name(f"{file_name(title)}-{file_name(drawn['title'] or section.title)}", files)
            files[file] = standalone(drawn["svg"])
            parts.append(f"![{text_markdown(drawn['title'])}]({file})")
        for table in section.tables:
            parts += [f"### {text_markdown(table.title)}"] if table.title else []
            parts.append(table_markdown(table).rstrip())
    if commands:
        parts += ["## Commands", "They produce the numbers above.", "```sh\n" + "\n".join(commands) + "\n```"]
    parts += ["## Answer", f"**{text_markdown(answer)}**"]
    return "\n\n".join(parts) + "\n", files


def _new_name(start: str, taken: Mapping[str, str]) -> str:
    numbered = [f"{start}.svg", *(f"{start}-{number}.svg" for number in range(2, len(taken) + 3))]
    return next(name for name in numbered if name not in taken)
