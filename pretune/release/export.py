"""Ways out of transformers: ONNX and torch.export, each compared with the model it came from on real rows."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pretune.errors import DataError, WorkspaceError
from pretune.predictor.text import calibrated

Logits = npt.NDArray[np.float32]
Asked = list[tuple[dict[str, Tensor], Logits]]  # batches, and what the model says about each
Run = Callable[[dict[str, Tensor]], Logits]
OPSET = 18
SAMPLES = "samples.npz"
BATCH = 16  # rows a forward pass
TOLERANCE = 1e-3  # of a logit, in fp32
SIDE_FILES = (
    "config.json", "pretune.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "preprocessor_config.json",
)  # fmt: skip


@dataclass(frozen=True)
class Parity:
    """How near it comes: the largest difference of a logit, the share of rows whose best class is the same."""

    file: str
    megabytes: float
    rows: int
    difference: float
    agreement: float
    accuracy: float | None = None
    accuracy_before: float | None = None


class _Logits(nn.Module):
    """A predictor's model with tensors in and a tensor out, in a fixed order; its temperature is in the logits."""

    def __init__(self, predictor: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.inference_config, self.names = predictor.model, predictor.inference_config, list(names)

    def forward(self, *inputs: Tensor) -> Tensor:
        return calibrated(self.model(**dict(zip(self.names, inputs, strict=True))).logits, self.inference_config)


def export(
    model: Any, rows: list[dict[str, Any]], target: Path, *, to: str, int8: bool, source: Path, samples: bool = False
) -> list[Parity]:
    """Write `model` (a predictor's class that has `encoded`) into `target`, and compare it on `rows`.

    With `samples` what it was asked and what it said goes along, for comparisons in other runtimes.
    """
    if not hasattr(model, "encoded"):
        raise DataError("this kind of model cannot be exported: it is not a single pass over a row", "pretune predict")
    if target.exists():
        raise DataError(f"{target} is there already", f"rm -r {target}   (or name another folder)")
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        files = _as_onnx(model, rows, partial, int8=int8) if to == "onnx" else _as_torch(model, rows, partial)
        for name in SIDE_FILES:
            if (source / name).is_file():
                shutil.copy2(source / name, partial / name)
        asked = _asked(model, rows)
        found = [_parity(model, rows, asked, path, run) for path, run in files]
        if found[0].difference > TOLERANCE:
            raise DataError(f"the exported model differs by {found[0].difference:.2g} in a logit: it is not kept")
        (partial / "parity.json").write_text(json.dumps([vars(each) for each in found], indent=1) + "\n", "utf-8")
        if samples:
            _write_samples(asked, partial / SAMPLES)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return found


def _as_onnx(model: Any, rows: list[dict[str, Any]], folder: Path, *, int8: bool) -> list[tuple[Path, Run]]:
    try:
        import onnxruntime
        import onnxscript
    except ModuleNotFoundError as error:
        raise WorkspaceError(f"{error.name} is missing", "pip install 'pretune[onnx]'") from None
    del onnxscript  # torch asks for it
    path = folder / "model.onnx"
    names, example, shapes = _example(model, rows)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, which nothing here needs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about names of dimensions and its own deprecated calls
        program = torch.onnx.export(
            _Logits(model, names), tuple(example), dynamo=True, dynamic_shapes=(shapes,), opset_version=OPSET,
            input_names=names, output_names=["logits"], verbose=False,
        )  # fmt: skip
    assert program is not None
    program.save(str(path))
    files = [path]
    if int8:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        files.append(folder / "model.int8.onnx")
        logging.getLogger().setLevel(logging.ERROR)  # it advises a step that changes nothing for linear layers
        quantize_dynamic(path, files[-1], weight_type=QuantType.QInt8)

    def run(path: Path) -> Run:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda batch: np.asarray(session.run(None, {name: batch[name].numpy() for name in names})[0])

    return [(each, run(each)) for each in files]


def _as_torch(model: Any, rows: list[dict[str, Any]], folder: Path) -> list[tuple[Path, Run]]:
    path = folder / "model.pt2"
    names, example, shapes = _example(model, rows)
    torch.export.save(torch.export.export(_Logits(model, names), tuple(example), dynamic_shapes=(shapes,)), path)
    module = torch.export.load(path).module()
    return [(path, lambda batch: np.asarray(module(*(batch[name] for name in names)).detach().numpy()))]


def _example(model: Any, rows: list[dict[str, Any]]) -> tuple[list[str], list[Tensor], tuple[dict[int, Any], ...]]:
    """Names, tensors and free dimensions of what the model takes: any number of rows, texts of any length."""
    batch = model.encoded(rows[:2] if len(rows) > 1 else rows * 2)
    free = {0: torch.export.Dim("rows", min=1, max=4096)}
    if "input_ids" in batch:
        free[1] = torch.export.Dim("length", min=2, max=int(model.inference_config["length"]))
    return list(batch), list(batch.values()), tuple(free for _ in batch)


def _asked(model: Any, rows: list[dict[str, Any]]) -> Asked:
    """The rows in batches, each as long as its longest, with the logits of the model itself."""
    with torch.no_grad():  # not inference_mode, whose tensors cannot be exported with
        batches = [model.encoded(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH)]
        return [
            (batch, calibrated(model.model(**batch).logits.float(), model.inference_config).numpy())
            for batch in batches
        ]


def _write_samples(asked: Asked, path: Path) -> None:
    """Arrays named BATCH/INPUT and BATCH/logits."""
    arrays: dict[str, Any] = {}
    for number, (batch, logits) in enumerate(asked):
        arrays |= {f"{number}/{name}": np.asarray(tensor) for name, tensor in batch.items()}
        arrays[f"{number}/logits"] = logits
    np.savez_compressed(path, **arrays)


def _parity(model: Any, rows: list[dict[str, Any]], asked: Asked, path: Path, run: Run) -> Parity:
    first, second = _joined([said for _, said in asked]), _joined([run(batch) for batch, _ in asked])
    best = [each.argmax(axis=-1) for each in (first, second)]
    accuracies: list[float | None] = [None, None]
    labels = model.inference_config.get("labels") or []
    if first.shape == (len(rows), len(labels)) and all(row.get("label") in labels for row in rows):
        right = np.array([labels.index(row["label"]) for row in rows])
        accuracies = [float((each == right).mean()) for each in best]
    return Parity(
        path.name,
        sum(each.stat().st_size for each in path.parent.glob(path.name + "*")) / 1e6,
        len(rows),
        float(np.abs(first - second).max()),
        float((best[0] == best[1]).mean()),
        accuracies[1],
        accuracies[0],
    )


def _joined(parts: list[Logits]) -> Logits:
    """The logits of all batches, which may be of different lengths: (rows or tokens, classes)."""
    return np.concatenate([each.reshape(-1, each.shape[-1]) for each in parts])
