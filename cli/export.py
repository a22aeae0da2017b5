"""`pretune export`: write a model for runtimes without transformers."""

from __future__ import annotations

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.options import Json

TEST = "data/prepared/labelled/test.parquet"
ROWS = 500  # on which the exported model is compared with the original


class Format(StrEnum):
    """The format of the exported model."""

    onnx = "onnx"
    torch = "torch"


def export(  # noqa: PLR0917 - typer passes them by name
    model: Annotated[str, typer.Argument(help="A folder, a run id, @champion or another alias.")],
    folder: Annotated[Path, typer.Argument(help="The folder to write; must not exist.")],
    to: Annotated[Format, typer.Option(help="The format: ONNX, or the archive of torch.export.")] = Format.onnx,
    int8: Annotated[bool, typer.Option("--int8", help="Also write 8-bit weights (ONNX only).")] = False,
    samples: Annotated[
        bool, typer.Option("--samples", help="Also write test rows as encoded for the model, with its outputs.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Export a model to ONNX or torch.export, and compare it with the original on test rows."""
    from pretune.lineage.graph import find_root
    from pretune.release import export as exporter
    from pretune.release import predict
    from tasks.__main__ import NO_BARS, OFFLINE

    os.environ |= OFFLINE | NO_BARS
    source = predict.folder(model)
    parities = exporter.export(
        predict.load_predictor(model), _rows(find_root()), folder, to=to.value, int8=int8 and to is Format.onnx,
        source=source, samples=samples,
    )  # fmt: skip
    if as_json:
        print(json.dumps([vars(parity) for parity in parities]))
        return
    for parity in parities:
        print(
            f"{parity.file}: {parity.megabytes:.1f} MB; on {parity.rows} rows the largest difference of a logit is "
            f"{parity.difference:.2g}, the best class is the same on {parity.agreement:.2%}"
        )
        if parity.accuracy is not None and parity.accuracy_before is not None:
            print(f"  accuracy {parity.accuracy:.4f} (before: {parity.accuracy_before:.4f})")


def _rows(root: Path) -> list[dict[str, object]]:
    """Test rows of the workspace."""
    from pretune.data import rows
    from pretune.errors import DataError

    if not (root / TEST).is_file():
        raise DataError(f"{TEST} is missing: an exported model is compared on real rows", "pretune run prepare")
    return rows.read(root / TEST)[:ROWS]
