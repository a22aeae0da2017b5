"""The training loop: the same one for pretraining and for finetuning."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pretune.errors import DivergedError
from pretune.training import optimizer

if TYPE_CHECKING:
    from pretune.params import TrainingParams

LOG_EVERY = 10  # steps


class Objective(Protocol):
    """What is learnt: the batch of a step, and the loss of a model on it."""

    def batch(self, step: int) -> Any:
        """The batch of `step`, a pure function of the seed and the step."""

    def loss(self, model: PreTrainedModel, batch: Any) -> Tensor:
        """A scalar to minimise."""


@dataclass(frozen=True)
class Record:
    """What is logged every LOG_EVERY steps; `loss` is the mean since the last record."""

    step: int
    loss: float
    learning_rate: float
    steps_per_second: float


def train(
    model: PreTrainedModel,
    objective: Objective,
    params: TrainingParams,
    steps: int,
    report: Callable[[Record], None],
) -> list[Record]:
    """Take `steps` optimizer steps on `model` in place and return what was logged.

    Raises DivergedError at the first loss that is not finite.
    """
    model.train()
    optimizers = optimizer.build(model, params)
    records: list[Record] = []
    total, counted, since = 0.0, 0, time.perf_counter()
    bf16 = autocast_to_bf16(params.precision)
    for step in range(steps):
        rate = optimizer.learning_rate(step, steps, params)
        for group in (group for o in optimizers for group in o.param_groups):
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = objective.loss(model, objective.batch(step))
        model.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), params.gradient_clip)
        for each in optimizers:
            each.step()
        total, counted = total + loss.item(), counted + 1
        if not math.isfinite(total):
            raise DivergedError(
                f"the loss was not finite at step {step + 1} of {steps}",
                "lower learning_rate or gradient_clip in params.yaml, then run again",
            )
        if (step + 1) % LOG_EVERY == 0 or step + 1 == steps:
            now = time.perf_counter()
            records.append(Record(step + 1, total / counted, rate, counted / (now - since)))
            report(records[-1])
            total, counted, since = 0.0, 0, now
    model.eval()
    return records


def make_deterministic(seed: int, threads: int) -> None:
    """Same seed, same threads, same processor: same bits."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=True)
    torch.manual_seed(seed)


def autocast_to_bf16(precision: str) -> bool:
    """Whether to compute in bf16; `auto` does where the processor has it."""
    return precision == "bf16" or (precision == "auto" and has_bf16())


def has_bf16() -> bool:
    """Whether this processor multiplies matrices in bf16 faster than in fp32."""
    if os.uname().machine not in {"x86_64", "AMD64"}:
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
