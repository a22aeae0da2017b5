"""Batches: frozen dataclasses of tensors that move to a device together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor


class Movable:
    """A frozen dataclass on the CPU, of tensors, tuples and dataclasses of tensors, and other values."""

    def to(self, device: torch.device) -> Self:
        """A copy on `device`; the batch itself if that is the CPU."""
        if device.type == "cpu":
            return self
        moved: Self = map_tensors(self, lambda tensor: tensor.to(device, non_blocking=True))
        return moved


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A copy of `value` with `function` applied to every tensor in it, however deep in tuples and dataclasses."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        return tuple(map_tensors(item, function) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in fields(value)]
        return replace(value, **{name: map_tensors(getattr(value, name), function) for name in names})
    return value
