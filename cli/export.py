"""`pretune export`: a model for runtimes that know nothing of transformers."""

from __future__ import annotations

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

TEST = "data/prepared/labelled/test.parquet"
ROWS = 500  # on which the exported model is compared


class Format(StrEnum):
    """What is written."""

    onnx = "onnx"
    torch = "torch"


def export(  # noqa: PLR0917 - typer hands them over by name
    model: Annotated[str, typer.Argument(help="A folder, a run id, @champion or another alias.")],
    folder: Annotated[Path, typer.Argument(help="Where to write; must not exist.")],
    to: Annotated[Format, typer.Option(help="ONNX, or torch.export's archive.")] = Format.onnx,
    int8: Annotated[bool, typer.Option("--int8", help="Also with weights of 8 bits (ONNX only).")] = False,
    samples: Annotated[
        bool, typer.Option("--samples", help="Also the test rows as the model reads them, with what it says.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Write a model as ONNX or torch.export's archive, and compare it with the original on the test rows."""
    from pretune.lineage.graph import find_root
    from pretune.release import export as exporting
    from pretune.release import predict
    from tasks.__main__ import NO_BARS, OFFLINE

    os.environ |= OFFLINE | NO_BARS
    source = predict.folder(model)
    found = exporting.export(
        predict.answers(model), _rows(find_root()), folder, to=to.value, int8=int8 and to is Format.onnx, source=source,
        samples=samples,
    )  # fmt: skip
    if as_json:
        print(json.dumps([vars(each) for each in found]))
        return
    for each in found:
        print(
            f"{each.file}: {each.megabytes:.1f} MB; on {each.rows} rows the largest difference of a logit is "
            f"{each.difference:.2g}, the best class is the same on {each.agreement:.2%}"
        )
        if each.accuracy is not None and each.accuracy_before is not None:
            print(f"  accuracy {each.accuracy:.4f} (before: {each.accuracy_before:.4f})")


def _rows(root: Path) -> list[dict[str, object]]:
    """Real rows: the test rows of the workspace."""
    from pretune.data import rows
    from pretune.errors import DataError

    if not (root / TEST).is_file():
        raise DataError(f"{TEST} is missing: an exported model is compared on real rows", "pretune run prepare")
    return rows.read(root / TEST)[:ROWS]
