"""`pretune export`: write a model for other runtimes."""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Json

if TYPE_CHECKING:
    from pretune.release.export.parity import Parity

TEST = "data/prepared/labelled/test.parquet"
ROWS = 500  # on which the exported model is compared with the original


class Format(StrEnum):
    """The format of the exported model."""

    onnx = "onnx"
    torch = "torch"
    safetensors = "safetensors"
    adapter = "adapter"
    gguf = "gguf"


class Precision(StrEnum):
    """The type of the weights of a model that writes text."""

    f32 = "f32"
    bf16 = "bf16"
    f16 = "f16"
    q8_0 = "q8_0"


def export(  # noqa: PLR0917 - typer passes them by name
    model: Annotated[str, typer.Argument(help="A folder, a run id, @champion or another alias.")],
    folder: Annotated[Path, typer.Argument(help="The folder to write; must not exist.")],
    to: Annotated[
        Format | None, typer.Option("--format", help="Default: safetensors for models that write text, else onnx.")
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(help="Of the weights of models that write text. Default: as they are; f16 for gguf."),
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Also write 8-bit weights (ONNX only).")] = False,
    samples: Annotated[
        bool, typer.Option("--samples", help="Also write test rows as encoded for the model (ONNX and torch only).")
    ] = False,
    as_json: Json = False,
) -> None:
    """Export a model for ONNX, torch.export, vLLM, llama.cpp; compare it with the original on test rows."""
    from pretune.lineage.graph import find_root
    from pretune.release import predict
    from pretune.release.export import decoders, graphs
    from tasks.__main__ import OFFLINE

    os.environ |= OFFLINE
    source, predictor, root = predict.folder(model), predict.load_predictor(model), find_root()
    chosen = (to or (Format.safetensors if decoders.writes_text(predictor) else Format.onnx)).value
    _check(chosen, precision, int8=int8, samples=samples)
    print("writing the model, and comparing it with the original on test rows …", file=sys.stderr)
    if chosen in decoders.FORMATS:
        parities = [
            decoders.export(
                predictor, _rows(root), folder, to=chosen, precision=precision and precision.value, source=source,
                base=_base(root, source),
            )
        ]  # fmt: skip
    else:
        parities = graphs.export(predictor, _rows(root), folder, to=chosen, int8=int8, source=source, samples=samples)
    if as_json:
        print(json.dumps([vars(parity) for parity in parities]))
        return
    for parity in parities:
        _tell(parity)


def _check(to: str, precision: Precision | None, *, int8: bool, samples: bool) -> None:
    """Options that a format does not take are a mistake, all told at once."""
    from pretune.errors import DataError

    problems = []
    if int8 and to != "onnx":
        problems.append(f"--int8 is for --format onnx, not for {to}")
    if samples and to not in {"onnx", "torch"}:
        problems.append(f"--samples is for --format onnx and torch, not for {to}")
    if precision and to not in {"safetensors", "gguf"}:
        problems.append(f"--precision is for --format safetensors and gguf, not for {to}")
    if precision is Precision.q8_0 and to == "safetensors":
        problems.append("--precision q8_0 is for --format gguf")
    if problems:
        raise DataError(problems, "pretune export --help")


def _base(root: Path, source: Path) -> Path | str:
    """What the adapters of a model of this workspace were trained on: a folder, or a checkpoint of the hub."""
    from pretune.config import params
    from pretune.evaluation.names import PRETRAINED
    from pretune.models.build import PINNED
    from pretune.release.last_model import LastModel, last_model

    finetuned = source.resolve() == (root / LastModel.path).resolve()  # also where another model is made from it
    base = PRETRAINED if finetuned else last_model(root).origin
    chosen = params.load(root / "params.yaml")
    as_it_came = base == PRETRAINED and chosen.pretrain.steps == 0 and PINNED.fullmatch(chosen.model.init or "")
    return str(chosen.model.init) if as_it_came else root / base


def _tell(parity: Parity) -> None:
    print(
        f"{parity.file}: {parity.megabytes:.1f} MB; on {parity.rows} rows the largest difference of a "
        + ("logit is " if parity.texts is None else "row's log-probabilities is ")
        + f"{parity.difference:.2g}, the best {'class' if parity.texts is None else 'token'} is the same on "
        + f"{parity.agreement:.2%}"
    )
    if parity.texts is not None:
        print(f"  the same text on {parity.texts:.0%} of the rows; a difference of {parity.tolerance:g} is allowed")
    if parity.rendered is not None and parity.rendered < 1:
        print(
            f"warning: a server writes {1 - parity.rendered:.0%} of the conversations otherwise than in training: "
            "system messages, tools or thoughts in a shape that the chat template does not expect",
            file=sys.stderr,
        )
    if parity.accuracy is not None and parity.accuracy_before is not None:
        print(f"  accuracy {parity.accuracy:.4f} (before: {parity.accuracy_before:.4f})")


def _rows(root: Path) -> list[dict[str, Any]]:
    """Test rows of the workspace."""
    from pretune.data import rows
    from pretune.errors import DataError

    if not (root / TEST).is_file():
        raise DataError(f"{TEST} is missing: an exported model is compared on real rows", "pretune run prepare")
    return rows.read(root / TEST)[:ROWS]
