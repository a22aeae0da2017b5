"""The batches of each step, prepared in advance."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pretune.objectives.protocol import Objective
    from pretune.training.mixture import Mixture


class EpochSampler:
    """The samples of each step: every sample once in an epoch, in a new random order each.

    Of a mixture, an epoch has as many samples, drawn by the weights of the parts. Each part goes through its own
    samples in a new random order each time, so that none is drawn twice before all others of its part.

    A pure function of (seed, step): any step can be computed without those before it. A step may span epochs.
    """

    def __init__(self, samples: int, batch_size: int, seed: int, mixture: Mixture | None = None) -> None:
        self._samples, self._batch_size, self._seed, self._mixture = samples, batch_size, seed, mixture
        self._orders: dict[int, npt.NDArray[np.int64]] = {}  # of the epochs in the last step

    def step(self, step: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The epoch and the sample of each row: two of (batch_size,)."""
        rows = np.arange(step * self._batch_size, (step + 1) * self._batch_size)
        epochs, offsets = np.divmod(rows, self._samples)
        self._orders = {int(epoch): self._order(int(epoch)) for epoch in np.unique(epochs)}
        samples = [self._orders[int(epoch)][offset] for epoch, offset in zip(epochs, offsets, strict=True)]
        return epochs, np.array(samples)

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        if epoch in self._orders:
            return self._orders[epoch]
        drawn = self._drawn(epoch, self._mixture) if self._mixture else self._samples
        return np.random.default_rng([self._seed, epoch]).permutation(drawn)

    def _drawn(self, epoch: int, mixture: Mixture) -> npt.NDArray[np.int64]:
        """The samples of an epoch, part by part: each part goes on where it ended in the epoch before."""
        drawn, begin = [], 0
        for number, (name, count) in enumerate(mixture.draws().items()):
            size = mixture.sizes[name]
            rounds, offset = divmod(epoch * count, size)
            orders = [
                np.random.default_rng([self._seed, number, rounds + more]).permutation(size)
                for more in range(-(-(offset + count) // size))
            ]
            drawn.append(begin + np.concatenate([*orders, np.empty(0, np.int64)])[offset : offset + count])
            begin += size
        return np.concatenate(drawn)


def batches(
    objective: Objective, sampler: EpochSampler, steps: range, *, parts: int, mine: range, workers: int = 0
) -> Generator[list[Any], None, None]:
    """For each step, the batches of this process: each step is split into `parts`, of which it takes `mine`.

    `workers` threads prepare up to 2 * workers steps in advance; their number does not change the batches.
    """

    def prepare(rows: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]) -> list[Any]:
        epochs, samples = (np.array_split(array, parts) for array in rows)
        return [objective.batch(epochs[part], samples[part]) for part in mine]

    if not workers:
        for step in steps:
            yield prepare(sampler.step(step))
        return
    ahead: deque[Future[list[Any]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="batches")
    try:
        for step in steps:
            ahead.append(pool.submit(prepare, sampler.step(step)))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
