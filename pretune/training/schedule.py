"""Learning-rate schedules by name: a pure function of the step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pretune.config.params import TrainingParams

DECAY = 0.2  # share of the steps in which `wsd` falls to zero


def learning_rate(step: int, steps: int, params: TrainingParams) -> float:
    """The rate of `step` (from 0): up to the peak over the warm-up, then as the schedule says.

    constant; linear: to zero at the end; cosine: half a period to zero; wsd: warmup, stable,
    decay (Hu et al. 2024), linear over the last DECAY of all steps.
    """
    warmup = max(1, warmup_steps(steps, params.warmup))
    if step < warmup:
        return params.learning_rate * (step + 1) / warmup
    left = (steps - step) / max(1, steps - warmup)  # of what follows the warm-up: 1 to almost 0
    factor = {
        "constant": 1.0,
        "linear": left,
        "cosine": (1 - math.cos(math.pi * left)) / 2,
        "wsd": min(1.0, (steps - step) / max(1, round(DECAY * steps))),
    }[params.schedule]
    return params.learning_rate * factor


def warmup_steps(steps: int, warmup: float) -> int:
    """`warmup` below one is a share of the steps, from one on their number."""
    return min(steps, round(warmup if warmup >= 1 else warmup * steps))
