"""Frozen matrices in 8 or 4 bits while adapters are trained (QLoRA, Dettmers et al. 2023), by bitsandbytes' kernels.

Only the storage is small: where a matrix is multiplied, in the forward and again in the backward pass, it is
dequantised, and activations are never rounded. So the trained model computes what its dequantised one does.
Importing bitsandbytes takes seconds, so functions import it where they need it.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from typing_extensions import override

from pretune.errors import ParamsError
from pretune.models import build, layers

BLOCK = 64  # weights that share a scale in nf4, as in the paper; in int8 those of a row do
INITS = (True, False, "gaussian", "orthogonal")  # of LoRA; the others change the matrix below the adapter
REFUSED = dict.fromkeys(["full", "head", "top", "gradual"], "has no adapters") | {
    "glora": "changes matrices that are in its hands",
    "ln_tuning": "trains norms only",
}

# Of kernels that bitsandbytes would download; it warns when it is imported, which peft does wherever it is installed.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def problems(method: str, settings: Mapping[str, Any], kind: str | None) -> list[str]:
    """Why frozen weights cannot be stored as `kind` while `method` trains, one line each."""
    if kind is None:
        return []
    found, init = [], settings.get("init_lora_weights", True)
    if importlib.util.find_spec("bitsandbytes") is None:
        found.append(f"adaptation.quantization: {kind} needs bitsandbytes: pip install 'pretune[quantization]'")
    if method in REFUSED:
        found.append(f"adaptation.quantization: {kind}, but {method} {REFUSED[method]}; write null, or method: lora")
    if init not in INITS:
        found.append(f"adaptation.settings.init_lora_weights: {init} changes the matrices, which {kind} has frozen")
    return found


def load(
    objective: Any, source: Path | str, kind: str | None, labels: Iterable[str] | None = None
) -> tuple[PreTrainedModel, frozenset[str]]:
    """The model and its new weights, as `build.load` has them, with its matrices stored as `kind`; None: in fp32.

    It is read in the number format of its file: at no time is there a copy of all weights in fp32.
    """
    if kind is None:
        return build.load(objective, source, labels)
    model, new = build.load(objective, source, labels, dtype=build.stored_dtype(source))
    quantize(model, kind, new)
    return model, new


def quantize(model: PreTrainedModel, kind: str, new: frozenset[str] = frozenset()) -> None:
    """Store the matrices of the linear modules within the layers as `kind`, in place; all else is fp32 then.

    kind: `int8` or `nf4`. new: names of weights that are to be trained, and stay. ParamsError if there is no matrix.
    """
    found = {name: module for name, module in matrices(model).items() if f"{name}.weight" not in new}
    if not found:
        raise ParamsError(refusal(model, kind), "write adaptation.quantization: null in params.yaml")
    for name in list(found):
        linear = found.pop(name)  # the last reference: its matrix is freed before the next one is made
        model.set_submodule(name, QuantizedLinear(linear, *_quantized(linear.weight.detach(), kind)))
    model.float()


def refusal(model: PreTrainedModel, kind: str) -> str:
    """What to say of a model without matrices to quantise."""
    return f"adaptation.quantization: {kind}; a {model.config.model_type} has no linear modules within layers"


def matrices(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear modules within the layers that can be quantised, by name: nf4 has two weights in a byte."""
    return {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and layers.LAYER.search(f".{name}.") and module.in_features % 2 == 0
    }


def parameters(model: nn.Module) -> int:
    """Number of parameters (scalars), quantised ones as the weights that they stand for."""
    small = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    stored = sum(module.codes.numel() + module.scales.numel() for module in small)
    weights = sum(module.in_features * module.out_features for module in small)
    return sum(parameter.numel() for parameter in model.parameters()) - stored + weights


def dequantize(model: nn.Module, folder: Path | None = None) -> bool:
    """Give quantised modules their matrices in fp32 again, in place, in files if `folder` is passed (`to_file`).

    Returns whether there were any.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, QuantizedLinear)]
    for name in names:
        small = model.get_submodule(name)
        assert isinstance(small, QuantizedLinear)
        linear = small.dequantized()
        if folder:
            to_file(linear, folder)
        model.set_submodule(name, linear)
    return bool(names)


def to_file(linear: nn.Linear, folder: Path) -> None:
    """Keep the matrix in a file without a name in `folder`, on the CPU: the system writes it out where memory is short.

    All matrices in fp32 are eight times those in 4 bits, more than training needs. Raises OSError if the disk is full.
    """
    matrix = linear.weight.detach()
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # else a full disk would kill the process while it writes
            os.posix_fallocate(file.fileno(), 0, matrix.nbytes)
        mapped = torch.from_file(file.name, shared=True, size=matrix.numel(), dtype=matrix.dtype)
    linear.weight = nn.Parameter(mapped.view(matrix.shape).copy_(matrix), requires_grad=False)


def like(model: nn.Module, other: nn.Module) -> None:
    """Quantise the modules of `model` that are quantised in `other`, in place and without computing anything."""
    for name, module in other.named_modules():
        if isinstance(module, QuantizedLinear) and name in (modules := dict(model.named_modules())):
            linear = modules[name]
            assert isinstance(linear, nn.Linear)
            empty = (torch.empty_like(part, device=linear.weight.device) for part in (module.codes, module.scales))
            model.set_submodule(name, QuantizedLinear(linear, *empty))


class QuantizedLinear(nn.Linear):
    """A linear module whose frozen matrix (out, in) is stored in few bits; for peft it is like any other.

    codes: int8 (out, in), or uint8 (out, in / 2) with two weights of nf4 each. scales: fp32, of rows or blocks.
    """

    def __init__(self, linear: nn.Linear, codes: Tensor, scales: Tensor) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        self.codes = nn.Parameter(codes, requires_grad=False)
        self.scales = nn.Parameter(scales, requires_grad=False)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The matrix, dequantised; a new tensor each time: what is written to it is lost."""
        return restored(self.codes, self.scales, torch.float32)

    def dequantized(self) -> nn.Linear:
        """The module with its matrix in fp32, frozen."""
        linear = nn.Linear(1, 1, bias=False, device="meta")
        linear.in_features, linear.out_features, linear.bias = self.in_features, self.out_features, self.bias
        linear.weight = nn.Parameter(self.weight, requires_grad=False)
        return linear

    @override
    def forward(self, input: Tensor) -> Tensor:
        """input: (..., in); returns (..., out)."""
        device = input.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else input.dtype
        bias = self.bias if self.bias is None else self.bias.to(dtype)
        rows = input.reshape(-1, self.in_features).to(dtype)
        with torch.autocast(device, enabled=False):
            output: Tensor = _Linear.apply(rows, self.codes, self.scales, bias)  # type: ignore[no-untyped-call]
        return output.view(*input.shape[:-1], self.out_features)  # not within: adapters may change it in place


def restored(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The matrix (out, in) of `QuantizedLinear`."""
    if codes.dtype == torch.int8:
        return (codes * (scales / 127).view(-1, 1)).to(dtype)
    _import()
    shape = [len(codes), 2 * codes.shape[1]]
    matrix: Tensor = torch.ops.bitsandbytes.dequantize_4bit(codes, scales, BLOCK, "nf4", shape, dtype)
    return matrix


class _Linear(torch.autograd.Function):
    """Rows (n, in) to (n, out). It keeps the codes for the backward pass, where autograd would keep a whole matrix."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(codes, scales)
        return functional.linear(x, restored(codes, scales, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        codes, scales = ctx.saved_tensors
        grad_x = gradient @ restored(codes, scales, gradient.dtype) if ctx.needs_input_grad[0] else None
        grad_bias = gradient.sum(0) if ctx.needs_input_grad[3] else None
        return grad_x, None, None, grad_bias


def _quantized(matrix: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Codes and scales of a matrix; the same on every machine, for they are computed on the CPU."""
    _import()
    values = matrix.float().cpu()
    if kind == "int8":
        codes, scales, _ = torch.ops.bitsandbytes.int8_vectorwise_quant(values)
    else:
        codes, scales = torch.ops.bitsandbytes.quantize_4bit(values, BLOCK, "nf4", torch.uint8)
        codes = codes.view(len(matrix), -1)
    return codes.to(matrix.device), scales.to(matrix.device)


def _import() -> None:
    """Import bitsandbytes, which registers its kernels with torch."""
    import bitsandbytes  # noqa: F401
