"""`pretune predict`: apply a model to texts, files or standard input."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class InputFormat(StrEnum):
    """The format of standard input."""

    text = "text"
    jsonl = "jsonl"
    csv = "csv"


class OutputFormat(StrEnum):
    """The format of the answers."""

    jsonl = "jsonl"
    csv = "csv"


def predict(  # noqa: PLR0917 - typer passes them by name
    model: Annotated[
        str | None,
        typer.Argument(
            help="A folder, a run id, @champion or another alias; without it @champion, else the model made last."
        ),
    ] = None,
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE …", help=".jsonl, .csv, .txt; default: -.")
    ] = None,
    text: Annotated[list[str] | None, typer.Option(help="A text to predict, instead of files.")] = None,
    source: Annotated[InputFormat, typer.Option("--from", help="The format of standard input.")] = InputFormat.text,
    target: Annotated[OutputFormat, typer.Option("--to", help="The format of the answers.")] = OutputFormat.jsonl,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to this file instead of standard output.")
    ] = None,
    keep: Annotated[list[str] | None, typer.Option(help="A column of the input to copy to the output.")] = None,
    system: Annotated[str, typer.Option(help="An instruction to a chat model, before each conversation.")] = "",
) -> None:
    """Predict row by row, in the order of the input, as it arrives. A text is a user's message to a chat model."""
    from pretune.errors import DataError
    from pretune.release import predict as predictor
    from tasks.__main__ import OFFLINE

    os.environ |= OFFLINE
    if model is not None and Path(model).is_file():  # the first of the files: a model is a folder
        files, model = [Path(model), *(files or [])], None
    answers = predictor.load_predictor(model)
    if system and "messages" not in answers.reads:
        raise DataError(f"--system: {model or 'the model'} is no chat model", "leave --system out")
    rows = (
        iter([(f"--text {number}", {"text": option}) for number, option in enumerate(text, start=1)])
        if text
        else predictor.read_rows(files or [], sys.stdin.buffer, source.value)
    )
    if "messages" in answers.reads:
        rows = predictor.as_conversations(rows, system)
    with ExitStack() as stack:
        out = stack.enter_context(output.open("w", encoding="utf-8", newline="")) if output else sys.stdout
        predictions = predictor.predict_windows(predictor.validate(rows, answers.reads), answers, keep or [])
        predictor.write(predictions, out, target.value)
