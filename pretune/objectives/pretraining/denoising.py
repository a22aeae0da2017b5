"""Denoising (Lewis et al. 2020): spans become one mask each, sentences change places, the decoder writes the text.

How many tokens a mask stands for, none at all included, is left for the model to find out.
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
    """See Rewriting."""

    class Settings(Section):
        """mask_rate: share of the tokens in spans. span_length: tokens of a span, on average."""

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
    def damaged(self, ids: Ids, draw: Draw) -> tuple[Ids, Ids]:
        settings, mask = self.context.settings, int(self.context.inputs.mask_token_id)
        read = permute(ids, self.stops, draw[0]) if settings.permute_sentences else ids
        wide = draw[2:6].reshape(2, -1)
        return infill(read, settings.mask_rate, settings.span_length, wide, mask), ids


def infill(ids: Ids, rate: float, mean: float, draw: Draw, mask: int) -> Ids:
    """`ids` with `rate` of its tokens in spans, their lengths Poisson with `mean`, each replaced by one `mask`.

    draw: (2, 2 * length) in [0, 1).
    """
    lengths = _poisson(draw[0, : len(ids)], mean)
    before = np.cumsum(lengths) - lengths
    budget = round(rate * len(ids))
    lengths = np.minimum(lengths, budget - before)[before < budget]
    slots = len(ids) - int(lengths.sum()) + len(lengths)
    chosen = np.sort(np.argsort(draw[1, :slots], kind="stable")[: len(lengths)])
    taken = np.ones(slots, dtype=np.int64)
    taken[chosen] = lengths
    found: Ids = np.append(ids, mask)[np.cumsum(taken) - taken]
    found[chosen] = mask
    return found


def permute(ids: Ids, stops: Ids, draw: Draw) -> Ids:
    """The sentences of `ids`, each ending in one of `stops`, in another order. draw: (length,) in [0, 1)."""
    ends = np.flatnonzero(np.isin(ids[:-1], stops)) + 1
    sentences = np.split(ids, ends)
    return np.concatenate([sentences[place] for place in np.argsort(draw[: len(sentences)], kind="stable")])


def _poisson(draw: Draw, mean: float) -> Ids:
    """Numbers with the Poisson distribution, from numbers in [0, 1) with the uniform one."""
    most = int(mean + 12 * mean**0.5 + 12)
    numbers = np.arange(1, most + 1)
    cumulative = np.exp(-mean) * np.cumsum(np.concatenate([[1.0], np.cumprod(mean / numbers)]))
    return np.minimum(np.searchsorted(cumulative, draw, side="right"), most)
