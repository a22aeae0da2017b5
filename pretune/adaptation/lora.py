"""LoRA (Hu et al. 2022) as one function: W x + s B A x, with two sums and nothing kept but x and A x.

Peft's own forward makes a tensor for each term and each change of number format; on small models that costs more than
the products. While a model trains, its frozen matrices lie in bf16 if that is what they are multiplied in and if bf16
holds them exactly, as it does those of a checkpoint in bf16: half the memory, and no cast at every step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional
from transformers import PreTrainedModel

from pretune.adaptation.quantization import QuantizedLinear, restored

ADAPTER = "default"  # peft's name for the first one


def fuse(model: PreTrainedModel, *, bf16: bool) -> None:
    """Have the LoRA layers of `model` compute by `_Lora`, in place; others stay as they are.

    bf16: whether the model is trained under autocast to bf16. Undone by `unfuse`.
    """
    for module in _plain(model):
        module.forward = _Forward(module)
        if isinstance(module.base_layer, QuantizedLinear):
            continue
        base = module.base_layer.weight
        if bf16 and not base.requires_grad and base.dtype == torch.float32 and _is_exact(base.data):
            base.data = base.data.bfloat16()


def fits_bf16(model: PreTrainedModel) -> bool:
    """Whether `fuse` can store frozen matrices in bf16, by the first of them: a checkpoint has one number format."""
    first = next((module.base_layer for module in _plain(model)), None)
    return type(first) is nn.Linear and _is_exact(first.weight.data)


def unfuse(model: PreTrainedModel) -> None:
    """Give LoRA layers peft's own forward again, and their frozen matrices the number format that they had."""
    for module in model.modules():
        if isinstance(vars(module).get("forward"), _Forward):
            dtype = module.forward.dtype
            del module.forward
            if not isinstance(module.base_layer, QuantizedLinear):
                module.base_layer.weight.data = module.base_layer.weight.data.to(dtype)


class _Forward:
    """The forward pass of a LoRA layer."""

    def __init__(self, module: Any) -> None:
        self._module, self.dtype = module, next(module.base_layer.parameters()).dtype  # of the matrix

    def __call__(self, x: Tensor) -> Tensor:
        module, base = self._module, self._module.base_layer
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        a, b = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
        with torch.autocast(device, enabled=False):
            rows, *parts = (tensor if tensor is None else tensor.to(dtype) for tensor in (x, base.bias, a, b))
            quantized = isinstance(base, QuantizedLinear)
            matrix = (base.codes, base.scales) if quantized else (base.weight.to(dtype), None)
            output: Tensor = _Lora.apply(rows, *matrix, *parts, module.scaling[ADAPTER])  # type: ignore[no-untyped-call]
        return output


class _Lora(torch.autograd.Function):
    """x: (..., in), weight: (out, in), bias: (out,) or None, a: (rank, in), b: (out, rank); returns (..., out).

    scales: None, or those of a quantised matrix, whose codes are `weight` then.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes positional arguments only
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        scales: Tensor | None,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scale: float,
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        low = rows @ a.T
        output = functional.linear(rows, _matrix(weight, scales, x.dtype), bias).addmm_(low, b.T, alpha=scale)
        ctx.save_for_backward(rows, low, weight, scales, a, b)
        ctx.scale, ctx.shape = scale, x.shape
        return output.view(*x.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, low, weight, scales, a, b = ctx.saved_tensors
        g = gradient.reshape(-1, len(weight))
        grad_low = (g @ b).mul_(ctx.scale)
        matrix = _matrix(weight, scales, g.dtype)
        grad_x = (g @ matrix).addmm_(grad_low, a).view(ctx.shape) if ctx.needs_input_grad[0] else None
        grad_weight = g.T @ rows if ctx.needs_input_grad[1] else None
        grad_bias = g.sum(0) if ctx.needs_input_grad[3] else None
        return grad_x, grad_weight, None, grad_bias, grad_low.T @ rows, (g.T @ low).mul_(ctx.scale), None


def _is_exact(weight: Tensor) -> bool:
    """Whether bf16 holds the numbers exactly; those of a tensor without data are taken to be so."""
    return isinstance(weight, FakeTensor) or torch.equal(weight.bfloat16().float(), weight)


def _matrix(weight: Tensor, scales: Tensor | None, dtype: torch.dtype) -> Tensor:
    return weight if scales is None else restored(weight, scales, dtype)


def _plain(model: PreTrainedModel) -> list[Any]:
    """Layers with one adapter of plain LoRA, without dropout, on a matrix of an nn.Linear, quantised or not."""
    if not hasattr(model, "peft_config"):
        return []
    from peft.tuners import lora

    return [
        module
        for module in model.modules()
        if type(module) is lora.Linear
        and type(module.base_layer) in {nn.Linear, QuantizedLinear}
        and module.active_adapters == [ADAPTER]
        and not module.merged
        and not module.lora_variant
        and not module.lora_bias[ADAPTER]
        and isinstance(module.lora_dropout[ADAPTER], nn.Identity)
    ]
