"""Batches: frozen dataclasses of tensors, which move to a device as one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor


class Movable:
    """A frozen dataclass, made on the CPU, of tensors, tuples and dataclasses of them, and other facts."""

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        if device.type == "cpu":
            return self
        moved: Self = mapped(self, lambda tensor: tensor.to(device, non_blocking=True))
        return moved


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same with `change` applied to every tensor in it, however deep in tuples and dataclasses."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        return tuple(mapped(each, change) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: mapped(getattr(value, each.name), change) for each in fields(value)})
    return value
