"""Export to ONNX and torch.export, for runtimes without transformers."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pretune.errors import DataError, WorkspaceError
from pretune.predictor.text import calibrated
from pretune.release.export.parity import Parity, kept, megabytes, record

Logits = npt.NDArray[np.float32]
Batches = list[tuple[dict[str, Tensor], Logits]]  # with the logits of the original model
Run = Callable[[dict[str, Tensor]], Logits]
OPSET = 18
INT8 = "model.int8.onnx"  # how much it differs is for its users to judge
SAMPLES = "samples.npz"
BATCH = 16  # rows per forward pass
TOLERANCE = 1e-3  # largest difference of a logit, in fp32
SIDE_FILES = (
    "config.json", "pretune.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "preprocessor_config.json",
)  # fmt: skip


class _Logits(nn.Module):
    """A predictor's model from tensors in a fixed order to a tensor: its calibrated logits."""

    def __init__(self, predictor: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.inference_config, self.names = predictor.model, predictor.inference_config, list(names)

    def forward(self, *inputs: Tensor) -> Tensor:
        return calibrated(self.model(**dict(zip(self.names, inputs, strict=True))).logits, self.inference_config)


def export(
    model: Any, rows: list[dict[str, Any]], target: Path, *, to: str, int8: bool, source: Path, samples: bool = False
) -> list[Parity]:
    """Write `model`, a predictor, into the folder `target`, and compare the files with it on `rows`.

    to: "onnx" or "torch"; source: the folder of the model; samples: also write the inputs and logits of the rows, for
    comparisons in other runtimes. DataError if the model cannot be exported, the folder exists or the logits differ.
    """
    if not hasattr(model, "encoded"):
        raise DataError("this model cannot be exported: it takes several passes over a row", "pretune predict")
    if getattr(model, "auto", "") == "AutoModelForCausalLM":
        raise DataError(
            f"--format {to} is for models that answer in one pass; this one writes text token by token",
            "--format safetensors, or --format gguf",
        )
    with kept(target) as folder:
        files = _as_onnx(model, rows, folder, int8=int8) if to == "onnx" else _as_torch(model, rows, folder)
        for name in SIDE_FILES:
            if (source / name).is_file():
                shutil.copy2(source / name, folder / name)
        batches = _batches(model, rows)
        parities = [_parity(model, rows, batches, path, run) for path, run in files]
        record(parities, folder)
        if samples:
            _write_samples(batches, folder / SAMPLES)
    return parities


def _as_onnx(model: Any, rows: list[dict[str, Any]], folder: Path, *, int8: bool) -> list[tuple[Path, Run]]:
    try:
        import onnxruntime
        import onnxscript
    except ModuleNotFoundError as error:
        raise WorkspaceError(f"{error.name} is missing", "pip install 'pretune[onnx]'") from None
    del onnxscript  # torch imports it
    path = folder / "model.onnx"
    names, example, shapes = _example(model, rows)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is missing, which is not needed
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

        files.append(folder / INT8)
        logging.getLogger().setLevel(logging.ERROR)  # it advises a step that changes nothing for linear layers
        quantize_dynamic(path, files[-1], weight_type=QuantType.QInt8)

    def runner(path: Path) -> Run:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda batch: np.asarray(session.run(None, {name: batch[name].numpy() for name in names})[0])

    return [(path, runner(path)) for path in files]


def _as_torch(model: Any, rows: list[dict[str, Any]], folder: Path) -> list[tuple[Path, Run]]:
    path = folder / "model.pt2"
    names, example, shapes = _example(model, rows)
    torch.export.save(torch.export.export(_Logits(model, names), tuple(example), dynamic_shapes=(shapes,)), path)
    module = torch.export.load(path).module()
    return [(path, lambda batch: np.asarray(module(*(batch[name] for name in names)).detach().numpy()))]


def _example(model: Any, rows: list[dict[str, Any]]) -> tuple[list[str], list[Tensor], tuple[dict[int, Any], ...]]:
    """Names, tensors and dynamic dimensions of the inputs: any number of rows, texts of any length."""
    batch = model.encoded(rows[:2] if len(rows) > 1 else rows * 2)
    dynamic = {0: torch.export.Dim("rows", min=1, max=4096)}
    if "input_ids" in batch:
        dynamic[1] = torch.export.Dim("length", min=2, max=int(model.inference_config["length"]))
    return list(batch), list(batch.values()), tuple(dynamic for _ in batch)


def _batches(model: Any, rows: list[dict[str, Any]]) -> Batches:
    """The rows in batches, each padded to its longest row, with the logits of the original model."""
    with torch.no_grad():  # not inference_mode, whose tensors cannot be used in an export
        batches = [model.encoded(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH)]
        return [
            (batch, calibrated(model.model(**batch).logits.float(), model.inference_config).numpy())
            for batch in batches
        ]


def _write_samples(batches: Batches, path: Path) -> None:
    """Arrays named BATCH/INPUT and BATCH/logits."""
    arrays: dict[str, Any] = {}
    for number, (batch, logits) in enumerate(batches):
        arrays |= {f"{number}/{name}": np.asarray(tensor) for name, tensor in batch.items()}
        arrays[f"{number}/logits"] = logits
    np.savez_compressed(path, **arrays)


def _parity(model: Any, rows: list[dict[str, Any]], batches: Batches, path: Path, run: Run) -> Parity:
    original = _concatenate([logits for _, logits in batches])
    exported = _concatenate([run(batch) for batch, _ in batches])
    best_before, best_after = original.argmax(axis=-1), exported.argmax(axis=-1)
    accuracy_before, accuracy = None, None
    labels = model.inference_config.get("labels") or []
    if original.shape == (len(rows), len(labels)) and all(row.get("label") in labels for row in rows):
        true = np.array([labels.index(row["label"]) for row in rows])
        accuracy_before, accuracy = float((best_before == true).mean()), float((best_after == true).mean())
    return Parity(
        file=path.name,
        megabytes=megabytes(path),
        rows=len(rows),
        difference=float(np.abs(original - exported).max()),
        agreement=float((best_before == best_after).mean()),
        tolerance=None if path.name == INT8 else TOLERANCE,
        accuracy=accuracy,
        accuracy_before=accuracy_before,
    )


def _concatenate(batches: list[Logits]) -> Logits:
    """The logits of batches, whose texts may have different lengths: (rows or tokens, classes)."""
    return np.concatenate([logits.reshape(-1, logits.shape[-1]) for logits in batches])
