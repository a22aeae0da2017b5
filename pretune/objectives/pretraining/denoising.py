"""Denoising (BART, Lewis et al. 2020): spans are replaced by masks, sentences are permuted, the decoder restores both.

Each span, of any length and even of none, becomes one mask: the model has to predict how many tokens are missing.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from typing_extensions import override

from pretune.config.section import Section
from pretune.data.loading.corpus import Sequences
from pretune.data.rows import Row
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.pretraining.rewriting import Draw, Ids, Rewriting

STOPS = frozenset(".!?。！？")  # noqa: RUF001 - Chinese ones too


class Denoising(Rewriting):
    """Text infilling, and sentence permutation if `permute_sentences` is set; the target is the whole text."""

    class Settings(Section):
        """mask_rate: share of the tokens in spans. span_length: mean tokens of a span."""

        mask_rate: Annotated[float, Field(ge=0, lt=1)]
        span_length: Annotated[float, Field(gt=0)]
        permute_sentences: bool

    def __init__(self, corpus: Sequences, context: ObjectiveContext) -> None:
        super().__init__(corpus, context)
        tokens = context.inputs.batch_decode([[number] for number in range(len(context.inputs))])
        self.stops = np.array([number for number, token in enumerate(tokens) if token.strip() in STOPS])

    @classmethod
    @override
    def example(cls, context: ObjectiveContext) -> Row:
        return {"text": f"Return the {context.inputs.mask_token} of a file."}

    @override
    def corrupt(self, ids: Ids, draw: Draw) -> tuple[Ids, Ids]:
        settings, mask = self.context.settings, int(self.context.inputs.mask_token_id)
        source = permute(ids, self.stops, draw[0]) if settings.permute_sentences else ids
        wide = draw[2:6].reshape(2, -1)
        return infill(source, settings.mask_rate, settings.span_length, wide, mask), ids


def infill(ids: Ids, rate: float, mean: float, draw: Draw, mask: int) -> Ids:
    """`ids` with a share `rate` of its tokens in spans, each span replaced by one `mask`.

    Span lengths are Poisson-distributed with mean `mean`. draw: (2, 2 * length) in [0, 1).
    """
    lengths = _poisson(draw[0, : len(ids)], mean)
    before = np.cumsum(lengths) - lengths
    budget = round(rate * len(ids))
    lengths = np.minimum(lengths, budget - before)[before < budget]
    slots = len(ids) - int(lengths.sum()) + len(lengths)
    masked = np.sort(np.argsort(draw[1, :slots], kind="stable")[: len(lengths)])
    widths = np.ones(slots, dtype=np.int64)
    widths[masked] = lengths
    infilled: Ids = np.append(ids, mask)[np.cumsum(widths) - widths]
    infilled[masked] = mask
    return infilled


def permute(ids: Ids, stops: Ids, draw: Draw) -> Ids:
    """The sentences of `ids` in random order; each ends with one of `stops`. draw: (length,) in [0, 1)."""
    ends = np.flatnonzero(np.isin(ids[:-1], stops)) + 1
    sentences = np.split(ids, ends)
    return np.concatenate([sentences[index] for index in np.argsort(draw[: len(sentences)], kind="stable")])


def _poisson(draw: Draw, mean: float) -> Ids:
    """Poisson-distributed numbers from uniform numbers in [0, 1), by the inverse of the distribution function."""
    highest = int(mean + 12 * mean**0.5 + 12)
    numbers = np.arange(1, highest + 1)
    cumulative = np.exp(-mean) * np.cumsum(np.concatenate([[1.0], np.cumprod(mean / numbers)]))
    return np.minimum(np.searchsorted(cumulative, draw, side="right"), highest)
