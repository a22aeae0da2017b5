"""Training one model in several processes: PyTorch's DDP and FSDP2, started by torchrun."""

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
    """The process group of a run: `rank` of this process, `size` of the group."""

    device: torch.device
    rank: int = 0
    size: int = 1

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def all_reduce_max(self, value: int) -> int:
        """The maximum over all processes, by gloo, which does not synchronise with a GPU."""
        if self.size == 1:
            return value
        maximum = torch.tensor(value)
        dist.all_reduce(maximum, dist.ReduceOp.MAX)
        return int(maximum)

    def all_equal(self, value: int) -> bool:
        """Whether all processes pass the same value."""
        return self.all_reduce_max(value) == -self.all_reduce_max(-value)

    def broadcast(self, value: int) -> int:
        """The value of process 0, for which all wait."""
        if self.size == 1:
            return value
        received = torch.tensor(value)
        dist.broadcast(received, 0)
        return int(received)


def single_process() -> World:
    """A group of this process alone."""
    return World(device.choose())


@contextmanager
def init_process_group() -> Iterator[World]:
    """The group that torchrun's environment variables describe; a single process without them."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield single_process()
        return
    own_device = device.choose()
    dist.init_process_group("cpu:gloo,cuda:nccl" if own_device.type == "cuda" else "gloo")
    yield World(own_device, dist.get_rank(), dist.get_world_size())
    dist.destroy_process_group()  # not after an error: NCCL would wait for processes that may have ended


def parallelize(module: nn.Module, world: World, strategy: str) -> nn.Module:
    """Move `module` to the device and wrap it: `ddp` replicates the model, `fsdp` shards every tensor.

    Both average the gradients over the processes.
    """
    if world.size == 1:
        return module.to(world.device)
    if strategy == "ddp":
        # Buffers (rotary frequencies, positions) are constants, equal in all processes.
        return nn.parallel.DistributedDataParallel(
            module.to(world.device), forward_sync_buffers=False, gradient_as_bucket_view=True
        )
    mesh = init_device_mesh(world.device.type, (world.size,))
    for inner in reversed(list(module.modules())):  # innermost first
        if isinstance(inner, nn.ModuleList):
            for layer in inner:
                fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh)
    return module


@contextmanager
def grad_sync(module: nn.Module, *, last: bool) -> Iterator[None]:
    """DDP: reduce gradients after the `last` batch of a step only. FSDP2 does after each, for it keeps no full ones."""
    if isinstance(module, nn.parallel.DistributedDataParallel) and not last:
        with module.no_sync():
            yield
        return
    yield


@contextmanager
def eval_module(module: nn.Module) -> Iterator[Callable[..., Any]]:
    """The function to call without gradients, not compiled; with FSDP2 parameters are sharded again afterwards."""
    if isinstance(module, FSDPModule):
        yield module  # gathers its parameters when it is called
        module.reshard()
    else:
        yield (module.module if isinstance(module, nn.parallel.DistributedDataParallel) else module).forward


def gather_full_model(model: PreTrainedModel, world: World) -> PreTrainedModel:
    """The model with full tensors: itself if it is not sharded, else a copy on the CPU, in process 0 only."""
    if not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return model
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        full = value.full_tensor() if isinstance(value, DTensor) else value
        if world.rank == 0:
            tensors[name] = full.cpu()
    if world.rank:
        return model
    copy = adapters.like(model)
    copy.load_state_dict(tensors)
    return copy
