"""A few steps of a job, timed: how long all of it will take, and how much memory. In a process of its own."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from pretune.training import checkpoint, dataloader, loop, memory, schedule

if TYPE_CHECKING:
    from pretune.objectives.protocol import Objective
    from pretune.training.job import Job
    from pretune.training.parallel import World

WARM_UP, LEAST, MOST = 2, 5, 40  # steps
ENOUGH = 2.0  # seconds of steps; of validation, half of that
ROUNDS = 8  # of validation batches


@dataclass(frozen=True)
class Trial:
    """Seconds of a step (median), of all steps with their validations; bytes at the peak."""

    step: float
    training: float
    memory: int


def timed(job: Job, seed: int, world: World, processes: int, snapshot: int) -> Trial:
    """Take some steps of `job`, as one of `processes`, and validate. Its model is then another.

    `snapshot` is what a checkpoint takes; runs shorter than a minute write none.
    """
    params = job.params
    if not job.steps:
        return Trial(0.0, 0.0, memory.highest(world.device))
    torch.manual_seed(seed)
    learner = loop.Learner(job.model, job.objective, params, world=world, strategy="ddp")
    order = dataloader.EpochSampler(len(job.objective), params.batch_size, seed)
    batches = dataloader.batches(
        job.objective, order, range(min(job.steps, WARM_UP + MOST)),
        parts=params.gradient_accumulation_steps * processes, mine=range(params.gradient_accumulation_steps),
    )  # fmt: skip
    seconds: list[float] = []
    began = time.perf_counter()
    for step, batch in enumerate(batches):
        learner.step(batch, schedule.learning_rate(step, job.steps, params))
        learner.read()  # waits for a GPU
        now = time.perf_counter()
        seconds.append(now - began)
        began = now
        if len(seconds) >= WARM_UP + LEAST and sum(seconds[WARM_UP:]) > ENOUGH:
            break
    steady = statistics.median(seconds[WARM_UP:] or seconds)
    first = sum(each - steady for each in seconds[:WARM_UP])  # what is only done once: kernels are made, memory grows
    validation = _validation(learner, job, processes) if job.validation and params.evaluate_every else 0.0
    training = first + job.steps * steady + -(-job.steps // max(1, params.evaluate_every)) * validation
    highest = memory.highest(world.device) + (snapshot if training > checkpoint.EVERY else 0)
    return Trial(steady, training, highest)


def _validation(learner: loop.Learner, job: Job, processes: int) -> float:
    """Seconds of a validation: the first rounds of it, the second time, stand for all."""
    assert job.validation
    rows = job.params.batch_size // (job.params.gradient_accumulation_steps * processes)
    few = _Few(job.validation, rows * ROUNDS)
    for _ in range(2):
        began = time.perf_counter()
        learner.validate(few, 0)
    return (time.perf_counter() - began) * len(job.validation) / len(few) / processes


class _Few:
    """The first samples of an objective."""

    def __init__(self, objective: Objective, most: int) -> None:
        self._objective, self._samples = objective, min(most, len(objective))
        self.loss, self.score = objective.loss, objective.score

    def __len__(self) -> int:
        return self._samples

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> Any:
        """These samples of the objective."""
        return self._objective.batch(epochs, samples)
