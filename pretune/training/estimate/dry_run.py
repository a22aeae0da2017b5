"""A few timed steps of a job, to estimate its duration and memory; run it in a process of its own."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from pretune.training import checkpoint, dataloader, memory, schedule
from pretune.training.learner import Learner

if TYPE_CHECKING:
    from pretune.objectives.protocol import Objective
    from pretune.training.job import Job
    from pretune.training.parallel import World

WARM_UP, MINIMUM, MAXIMUM = 2, 5, 40  # steps; MINIMUM and MAXIMUM come after the warm-up
ENOUGH = 2.0  # seconds of steps
ROUNDS = 8  # of validation batches


@dataclass(frozen=True)
class DryRun:
    """step: seconds of a step (median); training: seconds of all steps and validations; memory: bytes at the peak."""

    step: float
    training: float
    memory: int


def timed(job: Job, world: World, processes: int, snapshot: int) -> DryRun:
    """Take some steps of `job`, as one of `processes`, and validate; this changes the weights of its model.

    snapshot: bytes more while a checkpoint is written, which happens in runs longer than a minute only.
    """
    params = job.params
    if not job.steps:
        return DryRun(0.0, 0.0, memory.highest(world.device))
    torch.manual_seed(job.seed)
    learner = Learner(job.model, job.objective, params, world=world, strategy="ddp")
    sampler = dataloader.EpochSampler(len(job.objective), params.batch_size, job.seed, job.mixture)
    batches = dataloader.batches(
        job.objective, sampler, range(min(job.steps, WARM_UP + MAXIMUM)),
        parts=params.gradient_accumulation_steps * processes, mine=range(params.gradient_accumulation_steps),
    )  # fmt: skip
    seconds: list[float] = []
    began = time.perf_counter()
    for step, batch in enumerate(batches):
        rate = schedule.learning_rate(
            step, job.steps, peak=params.learning_rate, warmup=params.warmup, schedule=params.schedule
        )
        learner.step(batch, rate)
        learner.read_tally()  # synchronises with a GPU
        now = time.perf_counter()
        seconds.append(now - began)
        began = now
        if len(seconds) >= WARM_UP + MINIMUM and sum(seconds[WARM_UP:]) > ENOUGH:
            break
    steady = statistics.median(seconds[WARM_UP:] or seconds)
    once = sum(duration - steady for duration in seconds[:WARM_UP])  # kernels are compiled, memory is allocated
    validation = _validation(learner, job, processes) if job.validation and params.evaluate_every else 0.0
    training = once + job.steps * steady + -(-job.steps // max(1, params.evaluate_every)) * validation
    highest = memory.highest(world.device) + (snapshot if training > checkpoint.EVERY else 0)
    return DryRun(steady, training, highest)


def _validation(learner: Learner, job: Job, processes: int) -> float:
    """Seconds of a validation, extrapolated from the second of two passes over its first ROUNDS batches."""
    assert job.validation
    rows = job.params.batch_size // (job.params.gradient_accumulation_steps * processes)
    few = _FirstSamples(job.validation, rows * ROUNDS)
    for _ in range(2):
        began = time.perf_counter()
        learner.validate(few, 0)
    return (time.perf_counter() - began) * len(job.validation) / len(few) / processes


class _FirstSamples:
    """The first `limit` samples of an objective."""

    def __init__(self, objective: Objective, limit: int) -> None:
        self._objective, self._samples = objective, min(limit, len(objective))
        self.loss, self.score, self.costliest = objective.loss, objective.score, objective.costliest

    def __len__(self) -> int:
        return self._samples

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> Any:
        """These samples of the objective."""
        return self._objective.batch(epochs, samples)
