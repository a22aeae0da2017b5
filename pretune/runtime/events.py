"""What a training stage reports while it runs."""

from __future__ import annotations

from dataclasses import dataclass

ERRORS = frozenset({"loss", "cross_entropy", "divergence"})  # metrics of a validation of which less is better


@dataclass(frozen=True)
class Record:
    """What is logged every LOG_EVERY steps: means over the steps since the last record."""

    step: int
    loss: float
    learning_rate: float
    steps_per_second: float
    tokens_per_second: float
    utilisation: float | None = None  # share of the FLOP/s that the GPUs can reach; None on a CPU
    memory_gb: float = 0.0  # the peak so far, of this process; on a GPU, of its memory


@dataclass(frozen=True)
class Validation:
    """Means over the validation samples after `step` steps."""

    step: int
    metrics: dict[str, float]
