"""The model card (Mitchell et al. 2019): intended use, data, evaluation, limits, and how to reproduce the model."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pretune.evaluation.metrics import compute
from pretune.release.gate import Check

if TYPE_CHECKING:
    from pretune.objectives.predictions import Predictions
    from pretune.release.runs import Evaluation

WEAKEST = 5  # slices that are named as limits
TRAINING = ("model.", "pretrain.", "finetune.", "adaptation.", "seed", "prepare.")


def write(
    evaluation: Evaluation, predictions: Predictions, checks: Iterable[Check], *, version: str, slices: str
) -> str:
    """The card in Markdown. The registry limits its length, so the least important parts come last.

    predictions: of the evaluated model; version: its number in the registry; slices: the text of slices.csv.
    """
    params, run_metrics = evaluation.params, evaluation.run.metrics
    objective = params.get("finetune.objective", "classification")
    headline, metric = next(iter(compute.metrics(predictions).items()))
    parts = [
        f"# {objective} model, run {evaluation.run.run_id[:8]}",
        _use(objective, _source(params)),
        "## Data\n\n" + _data(evaluation),
        "## Evaluation\n\n" + _metrics(run_metrics, evaluation.evaluated, params.get("evaluate.confidence", "unknown")),
        "## Limits\n\n"
        + "\n".join(
            [
                *_weakest(slices, headline, metric.sign),
                *_errors(run_metrics, evaluation.evaluated),
                "- inputs unlike the test rows were not evaluated",
            ]
        ),
        "## The gate\n\n" + "\n".join(f"- {check}" for check in checks),
        "## How to reproduce it\n\n" + _commands(evaluation, version),
        f"## Slices\n\n{headline} on rows that have something in common:\n\n{_slices(slices) or 'none'}",
        "## Training\n\n" + _table(["setting", "value"], _settings(params)),
    ]
    return "\n\n".join(parts) + "\n"


def _use(objective: str, source: str) -> str:
    return (
        f"## Intended use\n\nRows like those in its training data: {objective} on data from `{source}`. "
        "Any other use needs its own evaluation."
    )


def _data(evaluation: Evaluation) -> str:
    """The source of the data, its licence, and the hashes of all data files."""
    params = evaluation.params
    licence = params.get("ingest.licence", "unknown")
    lines = [f"From `{_source(params)}`. Licence: {licence} (as in `ingest.licence`)."]
    if (init := params.get("model.init", "None")) != "None":
        lines.append(f"Training started from the weights of `{init}`: their licence applies too.")
    return "\n".join(lines) + "\n\n" + _table(["path", "md5"], sorted(evaluation.data.items()))


def _source(params: dict[str, str]) -> str:
    """`ingest.source`, also where it is a mapping, of which a record has each key by its dotted name."""
    prefix = "ingest.source."
    keys = [f"{key.removeprefix(prefix)}: {value}" for key, value in params.items() if key.startswith(prefix)]
    return params.get("ingest.source") or ", ".join(keys) or "unknown"


def _settings(params: dict[str, str]) -> list[tuple[str, str]]:
    return sorted((key, value) for key, value in params.items() if key.startswith(TRAINING))


def _metrics(run_metrics: dict[str, float], model: str, confidence: str) -> str:
    """Metrics and gains of the evaluated model. run_metrics: `MODEL.NAME`, `gain.NAME` and their bounds."""
    rows = _estimates(run_metrics, f"{model}.", "")
    gains = _estimates(run_metrics, "gain.", "+")
    test_rows = (
        f"On {run_metrics['test_rows']:.0f} test rows; `low` and `high` bound the interval of confidence {confidence}."
    )
    tables = [_table(["metric", "value", "low", "high"], rows), _table(["better than", "by", "low", "high"], gains)]
    return "\n\n".join([test_rows, *tables])


def _estimates(run_metrics: dict[str, float], prefix: str, sign: str) -> list[tuple[str, ...]]:
    """(name, value, low, high) of the metrics with a prefix."""
    keys = sorted(key for key in run_metrics if key.startswith(prefix) and key.count(".") == 1)
    return [
        (key.removeprefix(prefix), *(f"{run_metrics[f'{key}{end}']:{sign}.4g}" for end in ("", ".low", ".high")))
        for key in keys
    ]


def _slices(table: str) -> str:
    rows = list(csv.reader(table.splitlines()))
    return _table(rows[0], rows[1:]) if rows else ""


def _weakest(table: str, headline: str, sign: int) -> list[str]:
    """The slices with the worst headline. sign: -1 if a low headline is better."""
    rows = sorted(csv.DictReader(table.splitlines()), key=lambda row: sign * float(row["value"]))
    return [
        f"- rows with {row['slice']}: {headline} {row['value']} ({row['low']} to {row['high']})"
        for row in rows[:WEAKEST]
    ]


def _errors(run_metrics: dict[str, float], model: str) -> list[str]:
    """The calibration error, and what was forgotten."""
    lines = []
    if (error := run_metrics.get(f"{model}.calibration_error")) is not None:
        lines.append(f"- its confidence is off by {error:.3f} on average (calibration error)")
    if "forgetting.increase" in run_metrics:
        value, low, high = (run_metrics[f"forgetting.increase{end}"] for end in ("", ".low", ".high"))
        lines.append(
            f"- training cost {value:+.3f} bits per byte on held-out text ({low:+.3f} to {high:+.3f}): above zero, "
            "it has forgotten"
        )
    return lines


def _commands(evaluation: Evaluation, version: str) -> str:
    commit = evaluation.run.tags.get("git.commit", "none")
    return f"    git checkout {commit}\n    make setup\n    .venv/bin/pretune reproduce @{version}"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = list(head)
    lines = [names, ["---"] * len(names), *map(list, rows)]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
