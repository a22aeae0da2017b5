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

WARM_UP, MAXIMUM = 2, 40  # steps; MAXIMUM comes after the warm-up
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
        if sum(seconds[_warm_up(seconds) :]) > ENOUGH:
            break
    first = _warm_up(seconds)
    steady = statistics.median(seconds[first:] or seconds)
    once = sum(duration - steady for duration in seconds[:first])  # kernels are compiled, memory is allocated
    watched = job.validation and params.evaluate_every
    validation = _validation(learner, job, processes, ROUNDS if steady < ENOUGH else 1) if watched else 0.0
    training = once + job.steps * steady + -(-job.steps // max(1, params.evaluate_every)) * validation
    highest = memory.highest(world.device) + (snapshot if training > checkpoint.EVERY else 0)
    return DryRun(steady, training, highest)


def _warm_up(seconds: list[float]) -> int:
    """How many of these steps are not timed: of a large model one, which takes seconds already."""
    return 1 if seconds and seconds[0] > ENOUGH else WARM_UP


def _validation(learner: Learner, job: Job, processes: int, rounds: int) -> float:
    """Seconds of a validation, extrapolated from its first batches: the second of two passes, unless one takes long."""
    assert job.validation
    rows = job.params.batch_size // (job.params.gradient_accumulation_steps * processes)
    few = _FirstSamples(job.validation, rows * rounds)
    took = 0.0
    for _ in range(2):
        if took < ENOUGH:
            began = time.perf_counter()
            learner.validate(few, 0)
            took = time.perf_counter() - began
    return took * len(job.validation) / len(few) / processes


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
