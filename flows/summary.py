"""The results of a pipeline run in words: the table of models, what pretraining and training brought, the stages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pretune.evaluation import names
from pretune.evaluation.label_efficiency import describe_saving
from pretune.pages.units import interval

SHARES = {"accuracy", "micro_f1", "entity_f1", "exact_match"}  # headlines whose gain is shown in points, hundredths
Row = tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """How a stage of a pipeline run ended: ran, restored (from DVC's cache) or skipped (was up to date)."""

    stage: str
    how: str
    seconds: float


def heads(results: dict[str, Any]) -> list[str]:
    """The names of the metrics that are shown: the first two."""
    return list(dict.fromkeys(name for model in names.models_of(results) for name in list(results[model])[:2]))[:2]


def rows(results: dict[str, Any]) -> list[Row]:
    """(model, first metric, its interval, second metric) of each model that was evaluated."""
    table = []
    for name in names.models_of(results):
        first, *others = [results[name].get(head) for head in heads(results)]
        cells = [f"{first['value']:.3f}", f"{first['low']:.3f} - {first['high']:.3f}"]
        table.append((names.describe(name), *cells, *(f"{other['value']:.3f}" if other else "" for other in others)))
    return table


def gains(results: dict[str, Any]) -> list[str]:
    """What pretraining and training brought, and over which model: in points of a share, else in the metric's unit."""
    return [_gain(heads(results)[0], results["gain"][name], name, what) for name, what in names.brought(results)]


def _gain(metric: str, gain: dict[str, float], rival: str, what: str) -> str:
    """In a line; above 0 is better."""
    points = metric in SHARES
    low, value, high = ((100 if points else 1) * gain[key] for key in ("low", "value", "high"))
    unit, digits = (f"points of {metric}", 1) if points else (metric, 3)
    by = f"{value:+.{digits}f} {unit} ({low:+.{digits}f} to {high:+.{digits}f}, same rows)"
    return f"{what} brought {by} over {names.describe(rival)}"


def wins(results: dict[str, Any]) -> list[str]:
    """How often the evaluated model answers better than each other one, of preferences; ties count half."""
    lines = []
    for name, rate in results.get("win_rate", {}).items():
        low, value, high = (f"{100 * rate[key]:.0f}" for key in ("low", "value", "high"))
        lines.append(f"better answers than {names.describe(name)}: {value} % of the test prompts ({low} to {high} %)")
    return lines


def forgetting(results: dict[str, Any]) -> list[str]:
    """What training made the model forget, in bits per byte: of all held-out texts, and of each part of a mixture."""
    measured = results.get("forgetting", {})
    by_part = {"": measured} | measured.get("parts", {}) if measured else {}
    lines = []
    for part, found in by_part.items():
        low, value, high = (f"{found['increase'][key]:+.3f}" for key in ("low", "value", "high"))
        before, after = (f"{found[key]['value']:.3f}" for key in ("before", "after"))
        text = f"held-out text{f' of {part}' if part else ''}"
        lines.append(f"{text}: {before} bits per byte before training, {after} after: {value} ({low} to {high})")
    return lines


def benchmarks(results: dict[str, Any]) -> list[str]:
    """The evaluated model's result in each benchmark, and by how much it is better than the others."""
    model, lines = names.evaluated(results), []
    for key, entry in results.get("benchmarks", {}).items():
        gains = "".join(
            f", {interval(gain['value'], gain['low'], gain['high'], sign=True)} over {names.describe(name)}"
            for name, gain in entry["gain"].items()
        )
        if own := entry.get(model):
            lines.append(f"{key}: {interval(own['value'], own['low'], own['high'])}{gains}")
    return lines


def labels(results: dict[str, Any]) -> str:
    """How many labels pretraining saves; empty if it was not measured."""
    by_share = results.get("label_efficiency")
    return describe_saving(by_share) if by_share else ""


def as_dict(run_id: str, outcomes: Iterable[Outcome], results: dict[str, Any], warning: str) -> dict[str, Any]:
    """What `pretune run --json` prints."""
    stages = {o.stage: {"outcome": o.how, "seconds": round(o.seconds, 1)} for o in outcomes}
    return {"run": run_id, "stages": stages, "results": results, "warning": warning}


def markdown(results: dict[str, Any], outcomes: Iterable[Outcome]) -> str:
    """Results and stages as Markdown, for Prefect and MLflow."""
    metrics = heads(results)
    lines = ["| " + " | ".join(["model", *metrics[:1], "interval", *metrics[1:]]) + " |"]
    lines += ["|---" * (len(metrics) + 2) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows(results)]
    lines += [
        "",
        *filter(None, [*gains(results), *wins(results), *forgetting(results), *benchmarks(results), labels(results)]),
        "",
        "| stage | outcome | seconds |",
        "|---|---|---|",
    ]
    lines += [f"| {o.stage} | {o.how} | {o.seconds:.0f} |" for o in outcomes]
    return "\n".join(lines)
