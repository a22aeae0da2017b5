"""A few timed steps of a job, to estimate its duration and memory; run it in a process of its own."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from pretune.training import checkpoint, dataloader, memory, schedule
from pretune.training.estimate import answering
from pretune.training.learner import Learner

if TYPE_CHECKING:
    from pretune.objectives.protocol import Objective
    from pretune.training.job import Job
    from pretune.training.parallel import World

WARM_UP, MAXIMUM = 2, 40  # steps; MAXIMUM comes after the warm-up
ENOUGH = 1.5  # seconds of steps
LARGE = 0.3  # seconds of a first step: of such a model one step is enough to warm up, and one pass of validation
COUNTED = 0.3  # seconds of counting the tokens of steps
ROUNDS = 8  # of validation batches; of a large model 2


@dataclass(frozen=True)
class DryRun:
    """step: seconds of a step (mean); training: seconds of all steps and validations; memory: bytes at the peak."""

    step: float
    training: float
    memory: int


def timed(job: Job, world: World, processes: int, snapshot: int) -> DryRun:
    """Take some steps of `job`, as one of `processes`, and validate; this changes the weights of its model.

    First are the steps with the most tokens and the most terms of the loss, of which a decoder has logits of the whole
    vocabulary: they show the memory at the peak. Their seconds are scaled by the tokens.
    snapshot: bytes more while a checkpoint is written, which happens in runs longer than a minute only.
    """
    params = job.params
    if not job.steps:
        return DryRun(0.0, 0.0, memory.highest(world.device))
    torch.manual_seed(job.seed)
    learner = Learner(job.model, job.objective, params, world=world, strategy="ddp")
    sampler = dataloader.EpochSampler(len(job.objective), params.batch_size, job.seed, job.mixture)
    parts = params.gradient_accumulation_steps
    batches = partial(dataloader.batches, job.objective, sampler, parts=parts * processes, mine=range(parts))
    limit = min(job.steps, WARM_UP + MAXIMUM)
    tokens, counts = _sizes(batches(range(limit)))
    largest = dict.fromkeys(int(np.argmax(sizes)) for sizes in (tokens, counts))
    order = [*largest, *range(limit)]
    seconds: list[float] = []
    began = time.perf_counter()
    for step, batch in enumerate(chain.from_iterable(batches(range(step, step + 1)) for step in order)):
        rate = schedule.learning_rate(
            min(step, job.steps - 1),
            job.steps,
            peak=params.learning_rate,
            warmup=params.warmup,
            schedule=params.schedule,
        )
        learner.step(batch, rate)
        learner.read_tally()  # synchronises with a GPU
        now = time.perf_counter()
        seconds.append(now - began)
        began = now
        if sum(seconds[_warm_up(seconds) :]) > ENOUGH:
            break
    first = min(_warm_up(seconds), len(seconds) - 1)
    seen = [tokens[step] for step in order[first : len(seconds)] if step < len(tokens)]
    steady = statistics.median(seconds[first:]) * statistics.mean(tokens) / statistics.mean(seen or tokens)
    once = sum(max(0.0, duration - steady) for duration in seconds[:first])  # kernels are compiled, memory is allocated
    watched = job.validation and params.evaluate_every
    validation = _validation(learner, job, processes, large=seconds[0] > LARGE) if watched else 0.0
    training = once + job.steps * steady + -(-job.steps // max(1, params.evaluate_every)) * validation
    highest = memory.highest(world.device) + (snapshot if training > checkpoint.EVERY else 0)
    return DryRun(steady, training, highest)


def _sizes(batches: Iterable[list[Any]]) -> tuple[list[int], list[float]]:
    """Tokens of each of these steps and terms of its loss; of as many steps as are made in COUNTED seconds."""
    tokens, counts, until = [], [], time.perf_counter() + COUNTED
    for parts in batches:
        tokens.append(sum(batch.tokens for batch in parts))
        counts.append(sum(batch.count for batch in parts))
        if time.perf_counter() > until:
            break
    return tokens, counts


def _warm_up(seconds: list[float]) -> int:
    """How many of these steps are not timed."""
    return 1 if seconds and seconds[0] > LARGE else WARM_UP


def _validation(learner: Learner, job: Job, processes: int, *, large: bool) -> float:
    """Seconds of a validation, extrapolated from its first batches: of a small model by the second of two passes."""
    assert job.validation
    rows = job.params.batch_size // (job.params.gradient_accumulation_steps * processes)
    few = _FirstSamples(job.validation, rows * (2 if large else ROUNDS))
    took = 0.0
    for _ in range(1 if large else 2):
        began = time.perf_counter()
        learner.validate(few, 0)
        took = time.perf_counter() - began
    samples = len(job.validation) + sum(map(len, job.validation_parts.values()))
    return took * samples / len(few) / processes + _generation(learner, job)


def _generation(learner: Learner, job: Job) -> float:
    """Seconds in which process 0 generates the texts by whose metric the best weights are chosen, if one is."""
    validated = [job.validation, *job.validation_parts.values()]
    if job.params.metric_for_best_model not in getattr(job.validation, "generated", ()):
        return 0.0
    learner.model.eval()
    took = sum(answering.seconds(objective, learner.model) for objective in validated)
    learner.model.train()
    return took


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
