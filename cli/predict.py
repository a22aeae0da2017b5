"""`pretune predict`: ask a model about texts, files or what another program writes."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class InputFormat(StrEnum):
    """What standard input holds."""

    text = "text"
    jsonl = "jsonl"
    csv = "csv"


class OutputFormat(StrEnum):
    """How answers are written."""

    jsonl = "jsonl"
    csv = "csv"


def predict(  # noqa: PLR0917 - typer hands them over by name
    model: Annotated[str, typer.Argument(help="A folder, a run id, @champion or another alias.")],
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE …", help=".jsonl, .csv, .txt; default: -.")
    ] = None,
    text: Annotated[list[str] | None, typer.Option(help="A text to ask about, instead of files.")] = None,
    source: Annotated[InputFormat, typer.Option("--from", help="The format of standard input.")] = InputFormat.text,
    target: Annotated[OutputFormat, typer.Option("--to", help="The format of the answers.")] = OutputFormat.jsonl,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file instead of standard output.")] = None,
    keep: Annotated[list[str] | None, typer.Option(help="A column of the input to repeat beside the answers.")] = None,
) -> None:
    """Answer row by row, in the order of the input, as it comes in."""
    from pretune.release import predict as asking
    from tasks.__main__ import NO_BARS, OFFLINE

    os.environ |= OFFLINE | NO_BARS
    answers = asking.answers(model)
    found = (
        iter([(f"--text {number}", {"text": each}) for number, each in enumerate(text, start=1)])
        if text
        else asking.located(files or [], sys.stdin, source.value)
    )
    with ExitStack() as stack:
        out = stack.enter_context(output.open("w", encoding="utf-8", newline="")) if output else sys.stdout
        asking.write(asking.answered(asking.checked(found, answers.reads), answers, keep or []), out, target.value)
