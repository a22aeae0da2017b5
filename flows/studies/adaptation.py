"""Must all parameters be tuned? Each adaptation at its own best rate, by quality, trained share, memory and time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flows.studies.study import Part, Result, Study, with_interval
from pretune.evaluation.metrics.bootstrap import Difference, Estimate
from pretune.pages.render import Table
from pretune.pages.units import si
from pretune.studies import charts
from pretune.studies.page import Section, figure
from pretune.studies.results import Point, TrialResult

QUESTION = "Must all parameters be tuned?"
VARIANTS: dict[str, Point] = {  # settings as they are usual; the rate of each is searched
    "full": {"adaptation.method": "full"},
    "gradual": {"adaptation.method": "gradual", "adaptation.settings": {"epochs_per_layer": 0.5}},
    "top layer": {"adaptation.method": "top", "adaptation.settings": {"layers": 1}},
    "head": {"adaptation.method": "head"},
    "LoRA, rank 4": {"adaptation.method": "lora", "adaptation.settings": {"r": 4, "lora_alpha": 8}},
    "LoRA, rank 16": {"adaptation.method": "lora", "adaptation.settings": {"r": 16, "lora_alpha": 32}},
    "DoRA, rank 16": {"adaptation.method": "dora", "adaptation.settings": {"r": 16, "lora_alpha": 32}},
    "IA³": {"adaptation.method": "ia3"},
}
LOW, HIGH = (1e-3, 3e-3, 1e-2), (3e-3, 1e-2, 3e-2)  # rates: what is new and small bears higher ones
RATES = {"full": LOW, "gradual": LOW, "top layer": LOW}  # HIGH for all others
FEW = 5  # the smaller number of labels is a fifth of the larger
SEARCHED = 1  # seeds with which the rate is chosen


@dataclass(frozen=True)
class Measured:
    """A variant at its best rate, with a number of labels. against_full: on the test rows; None for full itself."""

    name: str
    rate: float
    test: Estimate
    costs: Mapping[str, float]
    against_full: Difference | None


def run(study: Study, *, variants: Sequence[str] = tuple(VARIANTS)) -> Result:
    """The study of these variants."""
    many = study.params.prepare.train_rows
    labels = [max(16, many // FEW), many] if many else [None]
    seeds = study.seeds or 3
    names = ["full", *(name for name in variants if name != "full")]
    found: dict[str, list[Measured]] = {}
    metric = ""
    for rows in labels:
        part = _compare(study, rows, names, seeds)
        found[f"{rows} labels" if rows else "all labels"] = _measured(part, names)
        metric = part.metric
    return conclude(found, metric, study.commands(), seeds)


def conclude(by_labels: Mapping[str, Sequence[Measured]], metric: str, commands: list[str], seeds: int) -> Result:
    """The page: a section for each number of labels."""
    sentences = [_sentence(labels, measured, metric) for labels, measured in by_labels.items()]
    sections = [_section(labels, measured, metric, seeds) for labels, measured in by_labels.items()]
    data = {
        labels: {
            one.name: {
                "rate": one.rate, "test": one.test.as_dict(), "costs": dict(one.costs),
                "against_full": one.against_full.as_dict() if one.against_full else None,
            }
            for one in measured
        }
        for labels, measured in by_labels.items()
    }  # fmt: skip
    return Result("Adaptations", QUESTION, " ".join(sentences), sections, commands, data)


def _compare(study: Study, rows: int | None, names: Sequence[str], seeds: int) -> Part:
    """Search the rate of each variant with one seed, then run each at its best rate with all seeds."""
    labels: Point = {"prepare.train_rows": rows} if rows else {}
    title = f"{rows or 'all'}-labels"
    points = [
        VARIANTS[name] | {"finetune.learning_rate": rate} | labels for name in names for rate in RATES.get(name, HIGH)
    ]
    searched = study.sweep(f"rates-{title}", points, seeds=SEARCHED, tested="none")
    chosen = [searched.best(_of(searched, name)).point for name in names]
    return study.sweep(title, chosen, seeds=seeds)


def _of(part: Part, name: str) -> list[TrialResult]:
    """The trials of a variant."""
    wanted = VARIANTS[name]
    keys = ("adaptation.method", "adaptation.settings")
    return [trial for trial in part.trials if all(trial.point.get(key) == wanted.get(key) for key in keys)]


def _measured(part: Part, names: Sequence[str]) -> list[Measured]:
    trials = {name: part.best(_of(part, name)) for name in names}
    return [
        Measured(
            name, trial.point["finetune.learning_rate"], part.test(trial), _costs(trial),
            part.test_difference(trial, trials["full"]) if name != "full" else None,
        )
        for name, trial in trials.items()
    ]  # fmt: skip


def _costs(trial: TrialResult) -> dict[str, float]:
    names = ("parameters", "trained_parameters", "finetune.seconds", "finetune.memory_gb")
    return {name.removeprefix("finetune."): cost for name in names if (cost := trial.cost(name)) is not None}


def _sentence(labels: str, measured: Sequence[Measured], metric: str) -> str:
    full, *others = measured
    as_good = [one for one in others if one.against_full and one.against_full.high >= 0]
    better = [one for one in others if one.against_full and one.against_full.low > 0]
    start = f"With {labels}, training all parameters reaches {metric} {with_interval(full.test)}."
    if better:
        names = ", ".join(
            f"{one.name} ({with_interval(one.against_full, sign=True)})" for one in better if one.against_full
        )
        return f"{start} Significantly better: {names}."
    if not as_good:
        return f"{start} Every other way is significantly worse."
    cheapest = min(as_good, key=lambda one: one.costs.get("trained_parameters", float("inf")))
    assert cheapest.against_full
    share = cheapest.costs["trained_parameters"] / cheapest.costs["parameters"]
    return (
        f"{start} {cheapest.name} trains {share:.2%} of them and cannot be told from it "
        f"({with_interval(cheapest.against_full, sign=True)})."
    )


def _section(labels: str, measured: Sequence[Measured], metric: str, seeds: int) -> Section:
    text = (
        f"Each way has the best of the rates that were tried with {SEARCHED} seed on the validation rows; "
        f"figures are of the test rows, {seeds} seeds."
    )
    ends = {name: (min(tried), max(tried)) for name in VARIANTS for tried in [RATES.get(name, HIGH)]}
    if at_end := [one.name for one in measured if one.rate in ends[one.name]]:
        text += f" At the end of what was tried, so perhaps better beyond: {', '.join(at_end)}."
    head = ["", "rate", f"test {metric}", "over full", "trained", "share", "memory, GB", "seconds"]
    body: list[list[Any]] = []
    for one in measured:
        trained, of = one.costs.get("trained_parameters"), one.costs.get("parameters")
        body.append([
            one.name, f"{one.rate:.2g}", one.test.as_dict(),
            one.against_full.as_dict() if one.against_full else "", si(trained) if trained else "",
            f"{trained / of:.2%}" if trained and of else "", _number(one.costs.get("memory_gb"), 2),
            _number(one.costs.get("seconds"), 1),
        ])  # fmt: skip
    bars = charts.bars({one.name: (one.test.value, one.test.low, one.test.high) for one in measured}, metric)
    timed = [
        (one.costs["trained_parameters"], one.test.value, one.name)
        for one in measured
        if "trained_parameters" in one.costs
    ]
    figures = [
        figure("Quality", bars),
        figure(
            "Quality against trained parameters",
            charts.scatter_labelled(timed, "trained parameters", metric, log_x=True),
        ),
    ]
    return Section(f"With {labels}", text, [Table("", head, body)], figures)


def _number(value: float | None, digits: int) -> str:
    return f"{value:.{digits}f}" if value is not None else ""
