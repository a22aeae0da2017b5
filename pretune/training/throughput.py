"""Training speed and memory of the records."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from pretune.runtime.events import Record
from pretune.training import memory

if TYPE_CHECKING:
    from pretune.objectives.protocol import Batch
    from pretune.training.parallel import World


class ThroughputMeter:
    """Counts steps and tokens since the last record. utilisation_per_token: as in loop.train."""

    def __init__(self, world: World, utilisation_per_token: float | None) -> None:
        self._world, self._utilisation_per_token = world, utilisation_per_token
        self._tokens, self._steps, self._began = 0, 0, time.perf_counter()

    def count(self, batches: list[Batch]) -> None:
        """Add a step on these batches."""
        self._steps += 1
        self._tokens += sum(batch.tokens for batch in batches)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The time of the block does not count as training."""
        began = time.perf_counter()
        yield
        self._began += time.perf_counter() - began

    def record(self, step: int, loss: float, rate: float) -> Record:
        """The record of the steps since the last one; `loss` is their mean. Counting starts anew."""
        tokens = int(self._world.all_reduce_sum(torch.tensor(self._tokens, device=self._world.device)))
        now = time.perf_counter()
        seconds = now - self._began
        per_token = self._utilisation_per_token
        record = Record(
            step,
            loss,
            rate,
            steps_per_second=self._steps / seconds,
            tokens_per_second=tokens / seconds,
            utilisation=None if per_token is None else per_token * tokens / seconds,
            memory_gb=memory.highest(self._world.device) / 1e9,
        )
        self._tokens, self._steps, self._began = 0, 0, now
        return record
