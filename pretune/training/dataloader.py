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


STREAMS = 16  # shards of a part that are read at a time, by all processes together; fewer if it divides the batch


class EpochSampler:
    """The samples of each step: every sample once in an epoch, in a new random order each.

    Of a mixture, an epoch has as many samples, drawn by the weights of the parts. Each part goes through its own
    samples in a new random order each time, so that none is drawn twice before all others of its part.

    Samples that lie in shards in storage come shard by shard: the shards of a part in a new random order each time, and
    the samples of each in a random order too. The rows of a step are STREAMS runs of rows, and each run reads shards of
    its own. So a process reads few shards at a time, and several processes read different ones; the order does not
    depend on their number. (Streams that do not depend on the number of machines are mosaicml-streaming's.)

    A pure function of (seed, step): any step can be computed without those before it. A step may span epochs.
    """

    def __init__(self, samples: int, batch_size: int, seed: int, mixture: Mixture | None = None) -> None:
        self._samples, self._batch_size, self._seed, self._mixture = samples, batch_size, seed, mixture
        self._streams = next(count for count in range(min(STREAMS, batch_size), 0, -1) if batch_size % count == 0)
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
        if self._mixture and self._mixture.blocks:
            return self._in_streams(epoch, self._drawn(epoch, self._mixture), list(self._mixture.draws().values()))
        drawn = self._drawn(epoch, self._mixture) if self._mixture else self._samples
        return np.random.default_rng([self._seed, epoch]).permutation(drawn)

    def _in_streams(self, epoch: int, drawn: npt.NDArray[np.int64], draws: list[int]) -> npt.NDArray[np.int64]:
        """Samples that were drawn part by part, `draws` of each, mixed; each stream reads on in its share of a part."""
        slots = (epoch * self._samples + np.arange(self._samples)) % self._batch_size
        stream = slots * self._streams // self._batch_size
        parts = np.random.default_rng([self._seed, epoch]).permutation(np.repeat(np.arange(len(draws)), draws))
        order = np.empty_like(drawn)
        order[np.lexsort((stream, parts))] = drawn
        return order

    def _drawn(self, epoch: int, mixture: Mixture) -> npt.NDArray[np.int64]:
        """The samples of an epoch, part by part: each part goes on where it ended in the epoch before."""
        drawn, begin = [], 0
        for number, (name, count) in enumerate(mixture.draws().items()):
            size = mixture.sizes[name]
            rounds, offset = divmod(epoch * count, size)
            orders = [
                _permutation(np.random.default_rng([self._seed, number, rounds + more]), size, mixture.blocks.get(name))
                for more in range(-(-(offset + count) // size))
            ]
            drawn.append(begin + np.concatenate([*orders, np.empty(0, np.int64)])[offset : offset + count])
            begin += size
        return np.concatenate(drawn)


def _permutation(random: np.random.Generator, size: int, blocks: list[int] | None) -> npt.NDArray[np.int64]:
    """A random order of `size` samples; block by block where they lie in blocks of these sizes."""
    if not blocks:
        return random.permutation(size)
    ends = np.cumsum(blocks)
    inside = [random.permutation(np.arange(end - count, end)) for count, end in zip(blocks, ends, strict=True)]
    return np.concatenate([inside[number] for number in random.permutation(len(blocks))])


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
