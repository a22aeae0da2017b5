"""What training costs, before anything is computed: parameters, FLOPs and memory of a step.

A copy of the model is made of tensors without data, and takes a step on a real batch: every
operation says what shapes come out of it, none computes. On a CPU the heap holds more than the tensors
that are alive, for freed blocks split up; HEAP is the margin for that. `pretune plan` measures instead.
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

from pretune.adaptation import adapters
from pretune.data.loading.batch import mapped
from pretune.models import heads
from pretune.training import dataloader, optimizer
from pretune.training import device as devices

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pretune.config.params import TrainingParams
    from pretune.objectives.protocol import Objective

HEAP = 1.5  # on CPUs, times what is alive at the peak: 1.3 to 1.9 were measured (docs/performance.md)
PARTS = 2  # batches of a step that are passed through: on the second the gradients are there already
PEAKS = {  # dense bf16 FLOP/s, from NVIDIA's data sheets; the first that the card's name contains
    "B200": 2250e12, "H200": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "GH200": 989e12,
    "A100": 312e12, "A40": 150e12, "A30": 165e12, "A10G": 70e12, "A10": 125e12, "L40S": 362e12, "L40": 181e12,
    "L4": 121e12, "RTX 5090": 210e12, "RTX 4090": 165e12, "RTX 3090": 71e12,
}  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """Of one step, and of one process where several train.

    flops: of all processes; what is computed twice to save memory (gradient checkpointing) counts once.
    tokens: read by all processes.
    memory: bytes at the peak that are not held before training starts.
    snapshot: bytes more while a checkpoint is written.
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
    """The cost of the first step of `model`, which is left as it is, as are all random numbers."""
    epochs, samples = dataloader.EpochSampler(len(objective), params.batch_size, seed).step(0)
    parts = params.gradient_accumulation_steps * processes
    rows = [np.array_split(each, parts)[:PARTS] for each in (epochs, samples)]
    batches = [objective.batch(*each) for each in zip(*rows, strict=True)]
    passed = _Passed(model, objective, batches, params, device)
    flops = passed.flops
    if params.gradient_checkpointing:
        once = params.model_copy(update={"gradient_checkpointing": False})
        flops = _Passed(model, objective, batches, once, device).flops
    tokens = sum(batch.tokens for batch in batches)
    share = len(batches) / parts  # of the step
    lasting, gathered = passed.lasting, 0
    if strategy == "fsdp" and processes > 1:
        lasting, gathered = lasting // processes, _gathered(model)
    on_cpu = device.type == "cpu"
    alive = lasting + passed.ledger.peak - passed.lasting + gathered - (passed.weights if on_cpu else 0)
    return Cost(
        parameters=sum(each.numel() for each in model.parameters()),
        flops=round(flops / share),
        tokens=round(tokens / share),
        memory=round(alive * (HEAP if on_cpu else 1)),
        snapshot=passed.kept if on_cpu and processes == 1 else 0,
    )


def peak_flops(device: torch.device, precision: str) -> float:
    """FLOP/s that the processor can reach in matrix products: from the data sheet, else measured for 0.1 s."""
    bf16 = devices.computes_in_bf16(device, precision)
    if device.type == "cuda" and bf16:
        name = torch.cuda.get_device_name(device)
        for card, peak in PEAKS.items():
            if card in name:
                return peak
    size = 1024 if device.type == "cpu" else 8192
    values = torch.linspace(-1, 1, size * size, device=device).view(size, size)
    values = values.to(torch.bfloat16 if bf16 else torch.float32)
    return 2 * size**3 / _shortest(values)


class _Passed:
    """What a pass through a copy of the model has shown: FLOPs, and bytes.

    weights: parameters and buffers. kept: with the optimizer's state, averaged and best weights, which a
    checkpoint copies. lasting: with gradients besides.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        objective: Objective,
        batches: list[Any],
        params: TrainingParams,
        device: torch.device,
    ) -> None:
        fake = FakeTensorMode()
        self.ledger = _Ledger()
        batches = [mapped(batch, fake.from_tensor) for batch in batches]
        with torch.device("meta"), no_init_weights():
            frame = adapters.like(model) if hasattr(model, "peft_config") else None  # peft moves what it has made
        with fake, self.ledger:
            with torch.device(device), no_init_weights():
                light = _filled(frame, device) if frame else adapters.like(model)
                light.tie_weights()  # part of what is left out: to give each weight a value
            heads.prepare(light)
            if params.gradient_checkpointing:
                light.activation_checkpointing_enable({"use_reentrant": False})
            light.train()
            self.weights = self.ledger.alive
            optimizers = optimizer.build(light, params)
            optimizer.materialize(optimizers)
            learnt = [each for each in light.parameters() if each.requires_grad]
            copies = bool(params.ema_decay) + (params.metric_for_best_model != "last")
            others = [each.detach().clone() for each in learnt * copies]
            self.kept = self.ledger.alive
            before = self.ledger.flops
            for batch in batches:
                with devices.autocast(device, params.precision):
                    loss = objective.loss(light, batch.to(device))
                loss.backward()  # type: ignore[no-untyped-call]
                del loss
            self.lasting, self.flops = self.ledger.alive, self.ledger.flops - before
            _step(optimizers)
            del others


class _Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps account of FLOPs, and of the bytes of tensors that are alive: now and at most."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive = self.peak = self.flops = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        if formula := flop_registry.get(function._overloadpacket):
            self.flops += formula(*args, **(kwargs or {}), out_val=found)
        for each in tree_leaves(found):
            if isinstance(each, Tensor):
                self._enter(each.untyped_storage())
        return found

    def _enter(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._leave, key, size).atexit = False

    def _leave(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size


def _filled(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """A model made on `meta` with tensors on `device` in place of its own, each once."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for values in (module._parameters, module._buffers):
            for name, old in values.items():
                if old is not None and id(old) not in made:
                    new = torch.empty(old.shape, dtype=old.dtype, device=device)
                    made[id(old)] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
                if old is not None:
                    values[name] = made[id(old)]
    return model


def _step(optimizers: list[torch.optim.Optimizer]) -> None:
    for each in optimizers:
        each.step()
        each.zero_grad(set_to_none=True)


def _gathered(model: nn.Module) -> int:
    """Bytes that FSDP2 holds in full: the layer at work, the one fetched ahead, and what is in no layer."""
    layers = [layer for each in model.modules() if isinstance(each, nn.ModuleList) for layer in each]
    sizes = [sum(each.nbytes for each in layer.parameters()) for layer in layers]
    rest = sum(each.nbytes for each in model.parameters()) - sum(sizes)
    return 2 * (max(sizes, default=0) + rest)  # parameters and gradients


def _shortest(values: Tensor, seconds: float = 0.1) -> float:
    """Seconds of the fastest product of `values` with itself."""
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        (values @ values)[0, 0].item()  # waits for a GPU
        best = min(best, time.perf_counter() - began)
    return best
