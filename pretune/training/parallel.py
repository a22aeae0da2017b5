"""Several processes that train one model: PyTorch's own DDP and FSDP2, started by torchrun."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from pretune.adaptation import adapters
from pretune.training import device

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class World:
    """The processes of a run, and which of them this is."""

    device: torch.device
    rank: int = 0
    size: int = 1

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def all_reduce_max(self, value: int) -> int:
        """The largest that any process says; over gloo, so that no GPU is waited for."""
        if self.size == 1:
            return value
        told = torch.tensor(value)
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return int(told)

    def all_equal(self, value: int) -> bool:
        """Whether all processes say the same."""
        return self.all_reduce_max(value) == -self.all_reduce_max(-value)

    def broadcast(self, value: int) -> int:
        """What process 0 says, for all; they wait for it."""
        if self.size == 1:
            return value
        told = torch.tensor(value)
        dist.broadcast(told, 0)
        return int(told)


def single_process() -> World:
    """One process."""
    return World(device.choose())


@contextmanager
def init_process_group() -> Iterator[World]:
    """The world that torchrun describes in the environment; one process where it does not."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield single_process()
        return
    chosen = device.choose()
    dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo")
    yield World(chosen, dist.get_rank(), dist.get_world_size())
    dist.destroy_process_group()  # not after an error: NCCL would wait for processes that may be gone


def wrap(module: nn.Module, world: World, strategy: str) -> nn.Module:
    """Move to the device and share the work: `ddp` keeps the whole model in each process, `fsdp` a part of it.

    With `fsdp` that is a part of every tensor. Both take the mean of the gradients over the processes.
    """
    if world.size == 1:
        return module.to(world.device)
    if strategy == "ddp":
        # Buffers are tables (rotary frequencies, positions), the same everywhere from the beginning.
        return nn.parallel.DistributedDataParallel(
            module.to(world.device), forward_sync_buffers=False, gradient_as_bucket_view=True
        )
    mesh = init_device_mesh(world.device.type, (world.size,))
    for inner in reversed(list(module.modules())):  # what is inside comes first
        if isinstance(inner, nn.ModuleList):
            for layer in inner:
                fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh)
    return module


@contextmanager
def grad_sync(module: nn.Module, *, last: bool) -> Iterator[None]:
    """DDP: exchange gradients after the last batch of a step only. FSDP2 does after each: it keeps no whole ones."""
    if isinstance(module, nn.parallel.DistributedDataParallel) and not last:
        with module.no_sync():
            yield
        return
    yield


@contextmanager
def eval_module(module: nn.Module) -> Iterator[Callable[..., Any]]:
    """What to call without gradients, not compiled for it; afterwards each process holds only its part again."""
    if isinstance(module, FSDPModule):
        yield module  # gathers its parameters when it is called
        module.reshard()
    else:
        yield (module.module if isinstance(module, nn.parallel.DistributedDataParallel) else module).forward


def gather_full_model(model: PreTrainedModel, world: World) -> PreTrainedModel:
    """The model itself, or, where it was sharded and this is process 0, a copy on the CPU with every tensor in full."""
    if not any(isinstance(each, DTensor) for each in model.parameters()):
        return model
    tensors: dict[str, Tensor] = {}
    for name, each in model.state_dict().items():
        full = each.full_tensor() if isinstance(each, DTensor) else each
        if world.rank == 0:
            tensors[name] = full.cpu()
    if world.rank:
        return model
    copy = adapters.like(model)
    copy.load_state_dict(tensors)
    return copy
