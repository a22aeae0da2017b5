"""The end of a pipeline run in words: the table of models, and where to look next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from flows.runner import Outcome, PipelineRun

LABELS = {
    "finetuned": "finetuned from the pretrained model",
    "scratch": "the same model from scratch",
    "majority": "majority baseline",
}
Row = tuple[str, str, str, str]


def rows(results: dict[str, Any]) -> list[Row]:
    """(model, accuracy, interval, macro F1) of each model that was evaluated."""
    return [
        (
            label,
            f"{results[name]['accuracy']['value']:.3f}",
            f"{results[name]['accuracy']['low']:.3f} - {results[name]['accuracy']['high']:.3f}",
            f"{results[name]['macro_f1']:.3f}",
        )
        for name, label in LABELS.items()
        if name in results
    ]


def gain(results: dict[str, Any]) -> str:
    """What pretraining brought, in points of accuracy."""
    if "gain" not in results:
        return ""
    low, value, high = (100 * results["gain"][key] for key in ("low", "value", "high"))
    return f"pretraining brought {value:+.1f} points of accuracy ({low:+.1f} to {high:+.1f}, same rows)"


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
    lines = ["| model | accuracy | interval | macro F1 |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows(results)]
    lines += ["", gain(results), "", "| stage | outcome | seconds |", "|---|---|---|"]
    lines += [f"| {o.stage} | {o.how} | {o.seconds:.0f} |" for o in outcomes]
    return "\n".join(lines)


def show(console: Console, summary: dict[str, Any], *, overridden: list[str]) -> None:
    """Print the table and the next commands."""
    from rich.table import Table

    results = summary["results"]
    found = rows(results)
    if found:
        percent = f"{100 * results['confidence']:.0f} % interval"
        table = Table(title=f"{results['test_rows']} test texts, {results['train_rows']} labelled for training")
        for heading in ("model", "accuracy", percent, "macro F1"):
            table.add_column(heading, justify="left" if heading == "model" else "right")
        for row in found:
            table.add_row(*row)
        console.print(table)
        console.print(gain(results), highlight=False)
    console.print("\nwhere to look next:", highlight=False)
    for command, what in _next(overridden):
        console.print(f"  {command:<34} {what}", highlight=False, markup=False, soft_wrap=True)


def _next(overridden: list[str]) -> list[tuple[str, str]]:
    keep = (
        [("edit params.yaml as in --set", "to keep this result: `pretune run` then restores it from the cache")]
        if overridden
        else [("git add dvc.lock && git commit", "to keep this result: dvc.lock names every input and output")]
    )
    return [
        ("pretune ui", "compare runs in MLflow, look at flow runs in Prefect"),
        ("pretune trace models/finetuned", "which data, parameters and commit made the model"),
        ("pretune run --set seed=1", "the same with another seed, params.yaml untouched"),
        *keep,
    ]
