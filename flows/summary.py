"""The end of a pipeline run in words: the table of models, and where to look next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pretune.evaluation.label_efficiency import saving

if TYPE_CHECKING:
    from flows.runner import Outcome, PipelineRun

LABELS = {
    "finetuned": "finetuned from the pretrained model",
    "scratch": "the same model from scratch",
    "tfidf": "TF-IDF and a linear model",
    "pixels": "pixels and a linear model",
    "linear": "linear model",
    "nearest": "nearest training row or sentence",
    "unigram": "frequencies of bytes",
    "mean": "mean of the training rows",
    "majority": "majority baseline",
}
SHARES = {"accuracy", "micro_f1", "entity_f1", "exact_match"}  # headlines that are told in points, hundredths
Row = tuple[str, ...]


def heads(results: dict[str, Any]) -> list[str]:
    """The names of the metrics that are shown: the first two that were taken."""
    return [name for model in LABELS if model in results for name in list(results[model])[:2]][:2]


def rows(results: dict[str, Any]) -> list[Row]:
    """(model, first metric, its interval, second metric) of each model that was evaluated."""
    shown = []
    for name, label in LABELS.items():
        if name in results:
            first, *others = [results[name].get(head) for head in heads(results)]
            cells = [f"{first['value']:.3f}", f"{first['low']:.3f} - {first['high']:.3f}"]
            shown.append((label, *cells, *(f"{other['value']:.3f}" if other else "" for other in others)))
    return shown


def gain(results: dict[str, Any]) -> str:
    """What pretraining brought: in points of what is a share, else in the metric's own unit, above 0 being better."""
    if "gain" not in results:
        return ""
    metric = heads(results)[0]
    points = metric in SHARES
    low, value, high = ((100 if points else 1) * results["gain"]["scratch"][key] for key in ("low", "value", "high"))
    unit, digits = (f"points of {metric}", 1) if points else (metric, 3)
    return f"pretraining brought {value:+.{digits}f} {unit} ({low:+.{digits}f} to {high:+.{digits}f}, same rows)"


def labels(results: dict[str, Any]) -> str:
    """How many labels pretraining saves, where that was measured."""
    found = results.get("label_efficiency")
    return saving(found) if found else ""


def summary(run: PipelineRun, results: dict[str, Any]) -> dict[str, Any]:
    """What `pretune run --json` prints."""
    return {
        "run": run.record.id,
        "stages": {o.stage: {"outcome": o.how, "seconds": round(o.seconds, 1)} for o in run.outcomes.values()},
        "results": results,
        "warning": run.warning,
    }


def markdown(results: dict[str, Any], outcomes: list[Outcome]) -> str:
    """The same as a Prefect artifact."""
    names = heads(results)
    lines = ["| " + " | ".join(["model", *names[:1], "interval", *names[1:]]) + " |", "|---" * (len(names) + 2) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows(results)]
    lines += ["", *filter(None, [gain(results), labels(results)]), "", "| stage | outcome | seconds |", "|---|---|---|"]
    lines += [f"| {o.stage} | {o.how} | {o.seconds:.0f} |" for o in outcomes]
    return "\n".join(lines)
