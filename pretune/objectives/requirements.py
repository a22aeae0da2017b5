"""The columns that each finetuning objective needs, and whether the rows of a snapshot have them. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretune.errors import DataError, did_you_mean

COLUMNS = {
    "binary": ("text", "label"),
    "classification": ("text", "label"),
    "embedding": ("text", "pair"),
    "grpo": ("messages",),
    "distillation": ("messages",),
    "dpo": ("messages", "chosen", "rejected"),
    "image_classification": ("image", "label"),
    "instruction": ("messages",),
    "kto": ("messages", "desirable"),
    "language_modelling": ("text",),
    "linear_regression": ("x", "y"),
    "multi_label": ("text", "labels"),
    "question_answering": ("question", "context", "answers"),
    "orpo": ("messages", "chosen", "rejected"),
    "regression": ("text", "score"),
    "reward": ("messages", "chosen", "rejected"),
    "seq2seq": ("text", "target"),
    "simpo": ("messages", "chosen", "rejected"),
    "token_classification": ("words", "tags"),
}
PAIRED = {"binary", "classification", "multi_label", "regression"}  # objectives that also read pairs of texts
WRITERS = {"continued", "reply"}  # predictors of decoders: what benchmarks can ask
REFERENCED = {"dpo", "kto"}  # objectives that compare the model with the one that training starts from
TAUGHT = {"distillation"}  # objectives that learn from what a teacher holds likely (params.yaml: teacher)
FEWEST = 3  # rows: one to train on, one to test on, one to choose by
SHOWN = 30  # columns in a message


def check(raw: Path, objectives: Mapping[str, str]) -> None:
    """Raise DataError if the snapshot in the folder `raw` cannot serve an objective; nothing without a snapshot.

    objectives: {section of params: its objective}.
    """
    path = raw / "counts.json"
    counts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for section, objective in objectives.items() if "columns" in counts else ():
        if objective in COLUMNS and (error := missing(counts, objective, section)):
            raise error


def missing(counts: dict[str, Any], objective: str, section: str = "finetune") -> DataError | None:
    """What the rows lack that the objective needs; counts: those of counts.json.

    Rows with a target have to have all columns. If none has one, the texts themselves are the target.
    """
    from pretune.data.rows import SUPERVISION  # imports pyarrow

    rows_by_columns = {frozenset(names.split()): count for names, count in counts["columns"].items()}
    labelled = {names: count for names, count in rows_by_columns.items() if names & set(SUPERVISION)}
    usable = labelled or rows_by_columns
    total, which = sum(usable.values()), " with a target" if labelled else ""
    if total < FEWEST:
        return DataError(
            f"ingest.source holds {total or 'no'} row{'s'[: total != 1]}{which} to train on and to test with; "
            f"{counts['read']} were read, {counts['exact'] + counts['near']} of them repeat others, "
            "and those of the split corpus do not count",
            "add rows; if each line of a text file is a row, set ingest.format: lines, or csv for a table; "
            "then: pretune run",
        )
    lacking = {name: sum(count for names, count in usable.items() if name not in names) for name in COLUMNS[objective]}
    if any(lacking.values()):
        problems = [
            f"{section}.objective {objective} needs the columns {', '.join(COLUMNS[objective])}; "
            + "; ".join(f"{rows} of {total} rows{which} have no {name}" for name, rows in lacking.items() if rows)
        ]
        return _lacking(problems, counts, [name for name, rows in lacking.items() if rows], usable, section)
    paired = sum(count for names, count in usable.items() if "pair" in names)
    if objective in PAIRED and 0 < paired < total:
        return DataError(
            f"{paired} of {total} rows{which} have a `pair`; all or none must",
            "set ingest.columns: {pair: null} to leave it out, or correct the data; then: pretune run",
        )
    labels = counts["labels"]
    if objective == "binary" and len(labels) != 2:
        return DataError(
            f"{section}.objective binary needs two labels; the rows have {len(labels)}: "
            + ", ".join(list(labels)[:SHOWN]),
            f"set {section}.objective: classification, or name two in ingest.labels; then: pretune run",
        )
    if labelled and (splits := [name for name, count in counts["splits"].items() if name and not count["labelled"]]):
        return DataError(
            [f"none of the {counts['splits'][name]['rows']} rows of the split {name} has a target" for name in splits],
            f"map their column in ingest.columns, or take {' and '.join(splits)} out of ingest.source: "
            "its rows are then drawn from the others; then: pretune run",
        )
    return None


def _lacking(
    problems: list[str], counts: dict[str, Any], lacking: list[str], usable: dict[frozenset[str], int], section: str
) -> DataError:
    """The error for columns that rows lack: with the columns that are not used, and the objectives that would do."""
    others = list(counts["left_out"])
    if others:
        near = "".join(did_you_mean(name, others) for name in lacking)
        problems.append(f"the source also has the columns {', '.join(others[:SHOWN])}{near}, which are not used")
    mapping = ", ".join(f"{name}: COLUMN" for name in lacking)
    served = [name for name, columns in COLUMNS.items() if all(set(columns) <= names for names in usable)]
    other = f", or {section}.objective to one that these rows serve: {', '.join(served)}" if served else ""
    return DataError(problems, f"set ingest.columns: {{{mapping}}}{other}; then: pretune run")
