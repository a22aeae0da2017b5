"""Several processes that train one model: PyTorch's own DDP and FSDP2, started by torchrun."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from pretune.training import device

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class World:
    """The processes of a run, and which of them this is."""

    device: torch.device
    rank: int = 0
    size: int = 1

    def add(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def first_says(self, value: int) -> int:
        """What process 0 says, for all."""
        if self.size == 1:
            return value
        told = torch.tensor(value, device=self.device)
        dist.broadcast(told, 0)
        return int(told)


def alone() -> World:
    """One process."""
    return World(device.choose())


@contextmanager
def joined() -> Iterator[World]:
    """The world that torchrun describes in the environment; one process where it does not."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield alone()
        return
    chosen = device.choose()
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield World(chosen, dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def wrap(module: nn.Module, world: World, strategy: str) -> nn.Module:
    """Share the work: `ddp` keeps the whole model in each process, `fsdp` a part of every tensor."""
    if strategy == "ddp":
        return nn.parallel.DistributedDataParallel(module)
    mesh = init_device_mesh(world.device.type, (world.size,))
    for inner in module.modules():
        if isinstance(inner, nn.ModuleList):
            for layer in inner:
                fully_shard(layer, mesh=mesh)
    return fully_shard(module, mesh=mesh)


@contextmanager
def gradients_shared(module: nn.Module, *, last: bool) -> Iterator[None]:
    """Exchange gradients after the last batch of a step only."""
    if isinstance(module, nn.parallel.DistributedDataParallel) and not last:
        with module.no_sync():
            yield
        return
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(last)
    yield


def whole(model: PreTrainedModel) -> PreTrainedModel:
    """The model itself, or, where it was sharded, a copy on the CPU with every tensor in full."""
    if not any(isinstance(each, DTensor) for each in model.parameters()):
        return model
    copy = type(model)(model.config)
    copy.load_state_dict(
        {
            name: each.full_tensor().cpu() if isinstance(each, DTensor) else each
            for name, each in model.state_dict().items()
        }
    )
    return copy
