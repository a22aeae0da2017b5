"""The batches of each step, prepared ahead of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pretune.objectives.protocol import Objective


class EpochSampler:
    """Which samples a step takes: all of them once an epoch, in a new order each, none left over.

    A pure function of (seed, step): any step can be asked for without the ones before it.
    """

    def __init__(self, samples: int, batch_size: int, seed: int) -> None:
        self._samples, self._batch_size, self._seed = samples, batch_size, seed
        self._known: dict[int, npt.NDArray[np.int64]] = {}

    def step(self, step: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The epoch and the sample of each row: two of (batch_size,)."""
        places = np.arange(step * self._batch_size, (step + 1) * self._batch_size)
        epochs, offsets = np.divmod(places, self._samples)
        wanted = {int(epoch): self._order(int(epoch)) for epoch in np.unique(epochs)}
        self._known = wanted
        samples = [wanted[int(epoch)][offset] for epoch, offset in zip(epochs, offsets, strict=True)]
        return epochs, np.array(samples)

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        known = self._known.get(epoch)
        return np.random.default_rng([self._seed, epoch]).permutation(self._samples) if known is None else known


def batches(
    objective: Objective, order: EpochSampler, steps: range, *, parts: int, mine: range, workers: int = 0
) -> Generator[list[Any], None, None]:
    """For each step, those of its `parts` batches that are `mine`.

    `workers` threads prepare them ahead; their number has no effect on what they hold.
    """

    def prepare(rows: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]) -> list[Any]:
        epochs, samples = (np.array_split(each, parts) for each in rows)
        return [objective.batch(epochs[part], samples[part]) for part in mine]

    if not workers:
        for step in steps:
            yield prepare(order.step(step))
        return
    ahead: deque[Future[list[Any]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="batches")
    try:
        for step in steps:
            ahead.append(pool.submit(prepare, order.step(step)))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
