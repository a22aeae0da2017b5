"""Muon in bf16 or fp32, whichever the processor supports, of whole or of sharded matrices.

`torch.optim.Muon` always iterates in bf16. A processor without bf16 emulates it on one core, many times slower
than fp32: it took most of the time of a training step.

Matrices that FSDP2 shards are orthogonalised as whole ones, each by one process: N processes exchange their rows of
N matrices, so that each holds one of them, and exchange the results. So each matrix is computed once, and its update
has the bits that one process computes. (Liu et al. 2025, algorithm 1, gathers every matrix in every process.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from pretune.training import device


class Muon(torch.optim.Muon):
    """Orthogonalised momentum (Jordan et al. 2024); bitwise equal to torch's on processors with bf16.

    Updates have the size of AdamW's (`match_rms_adamw`; Liu et al. 2025), so the same learning rates apply.
    """

    def __init__(self, params: list[dict[str, Any]], lr: float) -> None:
        super().__init__(params, lr=lr, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # no closure: the loop computes the loss
        """Update every matrix with a gradient."""
        for group in self.param_groups:
            trained = [parameter for parameter in group["params"] if parameter.grad is not None]
            trained.sort(key=Tensor.numel)  # those that are computed at the same time take as long
            number = trained[0].device_mesh.size() if trained and isinstance(trained[0], DTensor) else 1
            for first in range(0, len(trained), number):
                self._update(trained[first : first + number], group)

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Update at most as many matrices as there are processes; one if it is whole."""
        settings = group["ns_coefficients"], group["ns_steps"], group["eps"]
        directions = [self._direction(parameter, group["momentum"]) for parameter in parameters]
        if isinstance(parameters[0], DTensor):
            shapes = [parameter.shape for parameter in parameters]
            directions = _orthogonalize_sharded(directions, shapes, parameters[0].device_mesh, settings)
        else:
            directions = [orthogonalize(direction, *settings) for direction in directions]
        for parameter, direction in zip(parameters, directions, strict=True):
            weights = _local(parameter)
            weights.mul_(1 - group["lr"] * group["weight_decay"])
            weights.add_(direction, alpha=-group["lr"] * 0.2 * max(parameter.shape) ** 0.5)

    def _direction(self, parameter: Tensor, momentum: float) -> Tensor:
        """The Nesterov momentum of this process's rows of a matrix, in the dtype of the iteration."""
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        average = _local(state["momentum_buffer"]).lerp_(_local(gradient), 1 - momentum)
        dtype = torch.bfloat16 if device.has_bf16(parameter.device) else torch.float32
        return _local(gradient).lerp(average, momentum).to(dtype)


def _orthogonalize_sharded(
    rows: list[Tensor],
    shapes: list[torch.Size],
    mesh: DeviceMesh,
    settings: tuple[tuple[float, float, float], int, float],
) -> list[Tensor]:
    """`orthogonalize` of at most N matrices of `shapes`, sharded by rows over N processes; process i computes matrix i.

    rows: this process's of each matrix. Returns its rows of the results.
    """
    group, rank, number = mesh.get_group(), mesh.get_local_rank(), mesh.size()
    sent = [shard.numel() for shard in rows] + [0] * (number - len(rows))
    shape = shapes[rank] if rank < len(shapes) else torch.Size([0, 0])
    received = [len(shard) * shape[1] for shard in _chunks(shape[0], number)]
    matrix = rows[0].new_empty(shape)
    dist.all_to_all_single(matrix.view(-1), torch.cat([shard.flatten() for shard in rows]), received, sent, group)
    if matrix.numel():
        matrix = orthogonalize(matrix, *settings).contiguous()
    result = matrix.new_empty(sum(sent))
    dist.all_to_all_single(result, matrix.view(-1), sent, received, group)
    return [part.view_as(shard) for part, shard in zip(torch.split(result, sent), rows, strict=False)]


def _chunks(rows: int, number: int) -> list[range]:
    """The rows of each process, as FSDP2 shards them: all the same number, the last fewer or none."""
    size = -(-rows // number)
    return [range(min(rows, rank * size), min(rows, (rank + 1) * size)) for rank in range(number)]


def _local(tensor: Tensor) -> Tensor:
    """The rows of this process, of the same memory; a whole tensor is its own."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def orthogonalize(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Approximately U Vᵀ of a matrix U S Vᵀ, by Newton-Schulz iteration; singular values are between 0.7 and 1.2."""
    a, b, c = coefficients
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / wide.norm().clamp(min=eps)
    for _ in range(steps):
        gram = wide @ wide.T
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        wide = torch.addmm(wide, polynomial, wide, beta=a)
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T
