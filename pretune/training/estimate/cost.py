"""The cost of a training step without computing it: parameters, FLOPs and memory.

A copy of the model on fake tensors takes a step on a real batch: every operation gives shapes, none computes.
On a CPU the heap is larger than the live tensors, for it fragments; HEAP is the margin for that. `pretune plan`
measures instead.
"""

from __future__ import annotations

import time
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers.initialization import no_init_weights

from pretune.adaptation import adapters, lora, quantization
from pretune.data.loading.batch import map_tensors
from pretune.models import heads
from pretune.training import dataloader, optimizer
from pretune.training import device as devices

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pretune.config.params import TrainingParams
    from pretune.objectives.protocol import Objective

HEAP = 1.5  # heap over live tensors at the peak, on CPUs: 1.3 to 1.9 were measured (docs/performance.md)
PARTS = 2  # batches of a step to simulate: at the second one the gradients exist already
PEAKS = {  # dense bf16 FLOP/s from NVIDIA's data sheets, for the first key in the card's name
    "B200": 2250e12, "H200": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "GH200": 989e12,
    "A100": 312e12, "A40": 150e12, "A30": 165e12, "A10G": 70e12, "A10": 125e12, "L40S": 362e12, "L40": 181e12,
    "L4": 121e12, "RTX 5090": 210e12, "RTX 4090": 165e12, "RTX 3090": 71e12,
}  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """The cost of one step.

    flops: of all processes; recomputation (gradient checkpointing) does not count.
    tokens: input tokens of all processes.
    memory: bytes of one process at the peak, in addition to those before training.
    snapshot: more bytes while a checkpoint is written.
    """

    parameters: int
    flops: int
    tokens: int
    memory: int
    snapshot: int


def estimate(
    model: PreTrainedModel,
    objective: Objective,
    params: TrainingParams,
    *,
    seed: int,
    device: torch.device,
    processes: int = 1,
    strategy: str = "ddp",
) -> Cost:
    """The cost of the first step of `model`; neither the model nor the random generators change."""
    epochs, samples = dataloader.EpochSampler(len(objective), params.batch_size, seed).step(0)
    parts = params.gradient_accumulation_steps * processes
    rows = [np.array_split(array, parts)[:PARTS] for array in (epochs, samples)]
    batches = [objective.costliest(*part) for part in zip(*rows, strict=True)]
    sharded = strategy == "fsdp" and processes > 1
    simulated = _SimulatedStep(model, objective, batches, params, device, sharded=sharded)
    flops = simulated.flops
    if params.gradient_checkpointing:
        once = params.model_copy(update={"gradient_checkpointing": False})
        flops = _SimulatedStep(model, objective, batches, once, device, sharded=sharded).flops
    tokens = sum(batch.tokens for batch in batches)
    share = len(batches) / parts  # of the step
    lasting, gathered = simulated.lasting, 0
    if sharded:
        lasting, gathered = lasting // processes, _gathered(model)
    on_cpu = device.type == "cpu"
    transient = simulated.tensors.peak - simulated.lasting
    live = lasting + transient + gathered - (simulated.weights if on_cpu else 0)
    return Cost(
        parameters=quantization.parameters(model),
        flops=round(flops / share),
        tokens=round(tokens / share),
        memory=round(live * (HEAP if on_cpu else 1)),
        snapshot=simulated.saved if on_cpu and processes == 1 else 0,
    )


def peak_flops(device: torch.device, precision: str) -> float:
    """Peak FLOP/s of the processor in matrix products: from the data sheet, else measured for 0.1 s."""
    bf16 = devices.computes_in_bf16(device, precision)
    if device.type == "cuda" and bf16:
        name = torch.cuda.get_device_name(device)
        for card, peak in PEAKS.items():
            if card in name:
                return peak
    size = 1024 if device.type == "cpu" else 8192
    values = torch.linspace(-1, 1, size * size, device=device).view(size, size)
    values = values.to(torch.bfloat16 if bf16 else torch.float32)
    return 2 * size**3 / _fastest_product(values)


class _SimulatedStep:
    """FLOPs and bytes of a step on fake tensors.

    weights: bytes of parameters and buffers. saved: of what a checkpoint copies: the trained weights with the
    optimizer's state, the averaged and the best weights. lasting: all of it with gradients. tensors: live and peak.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        objective: Objective,
        batches: list[Any],
        params: TrainingParams,
        device: torch.device,
        *,
        sharded: bool = False,
    ) -> None:
        bf16 = devices.computes_in_bf16(device, params.precision)
        small = bf16 and not sharded and lora.fits_bf16(model)
        fake = FakeTensorMode()
        self.tensors = _TensorTracker()
        batches = [map_tensors(batch, fake.from_tensor) for batch in batches]
        with torch.device("meta"), no_init_weights():
            on_meta = adapters.like(model) if hasattr(model, "peft_config") else None  # peft moves its adapters
        with fake, self.tensors:
            with torch.device(device), no_init_weights():
                copied = _moved(on_meta, device) if on_meta else adapters.like(model)
                copied.tie_weights()  # no_init_weights leaves it out
            heads.prepare(copied)
            if not sharded:
                lora.fuse(copied, bf16=small)
            if params.gradient_checkpointing:
                copied.activation_checkpointing_enable({"use_reentrant": False})
            copied.train()
            self.weights = self.tensors.live
            optimizers = optimizer.build(copied, params)
            optimizer.materialize(optimizers)
            trained = [parameter for parameter in copied.parameters() if parameter.requires_grad]
            count = bool(params.ema_decay) + (params.metric_for_best_model != "last")
            copies = [parameter.detach().clone() for parameter in trained * count]
            frozen = (weight for weight in copied.parameters() if not weight.requires_grad)
            self.saved = self.tensors.live - sum(weight.nbytes for weight in frozen)
            before = self.tensors.flops
            for batch in batches:
                with devices.autocast(device, params.precision):
                    loss = objective.loss(copied, batch.to(device))
                loss.backward()  # type: ignore[no-untyped-call]
                del loss
            self.lasting, self.flops = self.tensors.live, self.tensors.flops - before
            for optim in optimizers:
                optim.step()
            optimizer.zero_grad(optimizers)
            del copies


class _TensorTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts FLOPs, and the bytes of live tensors: now (`live`) and at the peak (`peak`)."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = self.flops = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        if formula := flop_registry.get(function._overloadpacket):
            self.flops += formula(*args, **(kwargs or {}), out_val=output)
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return output

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, key, size).atexit = False

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _moved(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """A model on `meta` with its tensors replaced by empty ones on `device`; shared tensors stay shared."""
    replaced: dict[int, Tensor] = {}
    for module in model.modules():
        for values in (module._parameters, module._buffers):
            for name, old in values.items():
                if old is not None and id(old) not in replaced:
                    new = torch.empty(old.shape, dtype=old.dtype, device=device)
                    replaced[id(old)] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
                if old is not None:
                    values[name] = replaced[id(old)]
    return model


def _gathered(model: nn.Module) -> int:
    """Bytes that FSDP2 holds unsharded: the current layer, the prefetched one, and parameters outside the layers."""
    layers = [layer for module in model.modules() if isinstance(module, nn.ModuleList) for layer in module]
    sizes = [sum(parameter.nbytes for parameter in layer.parameters()) for layer in layers]
    rest = sum(parameter.nbytes for parameter in model.parameters()) - sum(sizes)
    return 2 * (max(sizes, default=0) + rest)  # parameters and gradients


def _fastest_product(values: Tensor, seconds: float = 0.1) -> float:
    """Seconds of the fastest product of the matrix `values` with itself, of those computed in `seconds`."""
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        (values @ values)[0, 0].item()  # synchronises with a GPU
        best = min(best, time.perf_counter() - began)
    return best
