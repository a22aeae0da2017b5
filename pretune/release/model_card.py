"""The model card (Mitchell et al. 2019): what a model is for, what made it, how good it is, how to repeat it."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pretune.evaluation.metrics import compute
from pretune.release.gate import Check

if TYPE_CHECKING:
    from pretune.objectives.predictions import Predictions
    from pretune.release.runs import Evaluation

WEAK = 5  # slices that are named as limits
TRAINING = ("model.", "pretrain.", "finetune.", "adaptation.", "seed", "prepare.")


def write(found: Evaluation, said: Predictions, checks: Iterable[Check], *, version: str, slices: str) -> str:
    """The card in Markdown; what a registry's limit on length may cut off comes last.

    said: by the finetuned model; version: its number in the registry; slices: the text of slices.csv.
    """
    params, measured = found.params, found.run.metrics
    objective = params.get("finetune.objective", "classification")
    headline, metric = next(iter(compute.metrics(said).items()))
    parts = [
        f"# {objective} model, run {found.run.run_id[:8]}",
        _use(objective, params.get("ingest.source", "unknown")),
        "## Data\n\n" + _data(found),
        "## Evaluation\n\n" + _metrics(measured, params.get("evaluate.confidence", "unknown")),
        "## Limits\n\n" + _limits(slices, measured, headline, metric.sign),
        "## The gate\n\n" + "\n".join(f"- {check}" for check in checks),
        "## To make it again\n\n" + _again(found, version),
        f"## Slices\n\n{headline} of the rows that have something in common:\n\n{_slices(slices) or 'none'}",
        "## Training\n\n" + _table(["setting", "value"], _settings(params)),
    ]
    return "\n\n".join(parts) + "\n"


def _use(objective: str, source: str) -> str:
    return (
        f"## Intended use\n\nRows like those it was trained on: {objective} on data from `{source}`. "
        "Any other use needs an evaluation of its own."
    )


def _data(found: Evaluation) -> str:
    """Where the data are from, under which licence, and what was read on the way."""
    params = found.params
    licence = params.get("ingest.licence", "unknown")
    lines = [f"From `{params.get('ingest.source', 'unknown')}`. Licence: {licence} (so `ingest.licence` says)."]
    if (init := params.get("model.init", "None")) != "None":
        lines.append(f"Training went on from the weights of `{init}`: their licence holds too.")
    return "\n".join(lines) + "\n\n" + _table(["path", "md5"], sorted(found.data.items()))


def _settings(params: dict[str, str]) -> list[tuple[str, str]]:
    return sorted((key, value) for key, value in params.items() if key.startswith(TRAINING))


def _metrics(measured: dict[str, float], confidence: str) -> str:
    names = [key.removeprefix("finetuned.") for key in measured if key.startswith("finetuned.") and key.count(".") == 1]
    rows = [
        (name, *(f"{measured[f'finetuned.{name}{end}']:.4g}" for end in ("", ".low", ".high")))
        for name in sorted(names)
    ]
    gains = [
        (key.removeprefix("gain."), *(f"{measured[f'{key}{end}']:+.4g}" for end in ("", ".low", ".high")))
        for key in sorted(measured)
        if key.startswith("gain.") and key.count(".") == 1
    ]
    better = _table(["better than", "by", "low", "high"], gains)
    rows_tested = (
        f"On {measured['test_rows']:.0f} test rows; `low` and `high` bound the interval of confidence {confidence}."
    )
    return "\n\n".join([rows_tested, _table(["metric", "value", "low", "high"], rows), better])


def _slices(table: str) -> str:
    rows = list(csv.reader(table.splitlines()))
    return _table(rows[0], rows[1:]) if rows else ""


def _limits(table: str, measured: dict[str, float], headline: str, sign: int) -> str:
    """sign: -1 where the headline is better when it is low."""
    rows = sorted(csv.DictReader(table.splitlines()), key=lambda row: sign * float(row["value"]))
    lines = [
        f"- rows with {row['slice']}: {headline} {row['value']} ({row['low']} to {row['high']})" for row in rows[:WEAK]
    ]
    error = measured.get("finetuned.calibration_error")
    lines += [f"- its confidence is off by {error:.3f} on average (calibration error)"] if error is not None else []
    return "\n".join([*lines, "- what is not in the test rows has not been measured"])


def _again(found: Evaluation, version: str) -> str:
    commit = found.run.tags.get("git.commit", "none")
    return f"    git checkout {commit}\n    make setup\n    .venv/bin/pretune reproduce @{version}"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = list(head)
    lines = [names, ["---"] * len(names), *map(list, rows)]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
