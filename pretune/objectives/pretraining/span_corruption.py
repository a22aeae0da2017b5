"""Span corruption (T5, Raffel et al. 2020): spans are replaced by sentinels, the decoder predicts the spans.

Source: `Thank you <0> me to your party <1> week`. Target: `<0> for inviting <1> last <2>`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field
from tokenizers import AddedToken
from typing_extensions import override

from pretune.config.section import Section
from pretune.data.loading.corpus import Sequences
from pretune.data.rows import Row
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.pretraining.rewriting import Draw, Ids, Rewriting

SENTINELS = [f"<extra_id_{number}>" for number in range(100)]  # the names in T5's own tokenizer


class SpanCorruption(Rewriting):
    """The target holds the masked spans only, each after its sentinel."""

    class Settings(Section):
        """mask_rate: share of the tokens to mask. span_length: mean tokens of a span."""

        mask_rate: Annotated[float, Field(gt=0, lt=1)]
        span_length: Annotated[float, Field(ge=1)]

    def __init__(self, corpus: Sequences, context: ObjectiveContext) -> None:
        super().__init__(corpus, context)
        self.sentinels = np.array(context.inputs.convert_tokens_to_ids(SENTINELS))

    @classmethod
    def inputs(cls, folder: Path) -> Any:
        """The tokenizer; sentinels are added at the end of the vocabulary if it has none."""
        tokenizer = super().inputs(folder)
        tokenizer.add_tokens([AddedToken(sentinel, special=True) for sentinel in SENTINELS])
        return tokenizer

    @classmethod
    @override
    def example(cls, context: ObjectiveContext) -> Row:
        return {"text": f"Return the {SENTINELS[0]} path of a file."}

    @override
    def corrupt(self, ids: Ids, draw: Draw) -> tuple[Ids, Ids]:
        settings = self.context.settings
        return replace_spans(ids, spans(len(ids), settings.mask_rate, settings.span_length, draw), self.sentinels)


def spans(length: int, rate: float, mean: float, draw: Draw) -> npt.NDArray[np.bool_]:
    """Which of `length` tokens to mask: a share `rate` of them, in spans of `mean` tokens on average.

    The first token is never masked, and spans are separated by one token at least. draw: (2 or more, length).
    """
    if length < 2:
        return np.zeros(length, dtype=np.bool_)
    hidden = min(max(1, round(length * rate)), length - 1)
    number = min(max(1, round(hidden / mean)), hidden, length - hidden)
    lengths = np.stack([_parts(length - hidden, number, draw[0]), _parts(hidden, number, draw[1])], axis=1)
    return np.repeat(np.tile([False, True], number), lengths.reshape(-1))


def _parts(total: int, number: int, draw: Draw) -> Ids:
    """`total` divided into `number` parts of one at least, every division equally likely: (number,)."""
    cuts = np.sort(np.argsort(draw[: total - 1], kind="stable")[: number - 1]) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))


def replace_spans(ids: Ids, hidden: npt.NDArray[np.bool_], sentinels: Ids) -> tuple[Ids, Ids]:
    """Source and target: sentinel n replaces span n, and one more sentinel ends the target.

    Spans beyond the last sentinel are not masked.
    """
    starts = hidden & ~np.concatenate([[False], hidden[:-1]])
    number = np.cumsum(starts) - 1
    hidden = hidden & (number < len(sentinels) - 1)
    starts &= hidden
    number = np.minimum(number, len(sentinels) - 1)
    source = np.where(starts, sentinels[number], ids)[~hidden | starts]
    masked = np.flatnonzero(hidden)
    firsts = np.flatnonzero(starts[masked])  # each span's sentinel precedes its first token
    target = np.insert(ids[masked], firsts, sentinels[: len(firsts)])
    return source, np.append(target, sentinels[len(firsts)])
