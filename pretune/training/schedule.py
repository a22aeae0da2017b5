"""Learning-rate schedules by name: pure functions of the step."""

from __future__ import annotations

import math

DECAY = 0.2  # share of the steps in which `wsd` falls to zero
RANGE = 1e-5  # the first rate of `range`, as a share of the last


def learning_rate(step: int, steps: int, *, peak: float, warmup: float, schedule: str) -> float:
    """The learning rate of `step` (from 0): linear warm-up to `peak`, then the schedule.

    warmup: see warmup_steps. schedule: constant; linear, to zero at the end; cosine, half a period to zero; wsd:
    warm-up, stable, decay (Hu et al. 2024), linear over the last DECAY of all steps. range: no warm-up; from
    peak x RANGE up to `peak`, by the same factor in each step, to see which rates a model learns at (Smith 2017).
    """
    if schedule == "range":
        return peak * float(RANGE ** (1 - (step + 1) / steps))
    warmup = max(1, warmup_steps(steps, warmup))
    if step < warmup:
        return peak * (step + 1) / warmup
    left = (steps - step) / max(1, steps - warmup)  # share of the steps after the warm-up: 1 to almost 0
    factor = {
        "constant": 1.0,
        "linear": left,
        "cosine": (1 - math.cos(math.pi * left)) / 2,
        "wsd": min(1.0, (steps - step) / max(1, round(DECAY * steps))),
    }[schedule]
    return peak * factor


def warmup_steps(steps: int, warmup: float) -> int:
    """The number of warm-up steps: `warmup` is a share of all steps if it is below 1, else their number."""
    return min(steps, round(warmup if warmup >= 1 else warmup * steps))
