"""Span corruption (Raffel et al. 2020): spans are replaced by sentinels, and the decoder writes what they hid.

`Thank you <0> me to your party <1> week` is read, `<0> for inviting <1> last <2>` is written.
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

SENTINELS = [f"<extra_id_{number}>" for number in range(100)]  # as T5's own tokenizer calls them


class SpanCorruption(Rewriting):
    """See Rewriting."""

    class Settings(Section):
        """mask_rate: share of the tokens to hide. span_length: tokens of a span, on average."""

        mask_rate: Annotated[float, Field(gt=0, lt=1)]
        span_length: Annotated[float, Field(ge=1)]

    def __init__(self, corpus: Sequences, context: ObjectiveContext) -> None:
        super().__init__(corpus, context)
        self.sentinels = np.array(context.inputs.convert_tokens_to_ids(SENTINELS))

    @classmethod
    def inputs(cls, folder: Path) -> Any:
        """The tokenizer, with sentinels after all of its own tokens where it has none."""
        tokenizer = super().inputs(folder)
        tokenizer.add_tokens([AddedToken(each, special=True) for each in SENTINELS])
        return tokenizer

    @classmethod
    @override
    def example(cls, context: ObjectiveContext) -> Row:
        return {"text": f"Return the {SENTINELS[0]} path of a file."}

    @override
    def damaged(self, ids: Ids, draw: Draw) -> tuple[Ids, Ids]:
        settings = self.context.settings
        return corrupt(ids, spans(len(ids), settings.mask_rate, settings.span_length, draw), self.sentinels)


def spans(length: int, rate: float, mean: float, draw: Draw) -> npt.NDArray[np.bool_]:
    """Which of `length` tokens to hide: `rate` of them, in spans of `mean` tokens on average.

    The first token is never hidden, and between two spans one at least is shown. draw: (2 or more, length).
    """
    if length < 2:
        return np.zeros(length, dtype=np.bool_)
    hidden = min(max(1, round(length * rate)), length - 1)
    number = min(max(1, round(hidden / mean)), hidden, length - hidden)
    lengths = np.stack([_parts(length - hidden, number, draw[0]), _parts(hidden, number, draw[1])], axis=1)
    return np.repeat(np.tile([False, True], number), lengths.reshape(-1))


def _parts(total: int, number: int, draw: Draw) -> Ids:
    """`total` divided into `number` parts of one at least, all divisions as likely: (number,)."""
    cuts = np.sort(np.argsort(draw[: total - 1], kind="stable")[: number - 1]) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))


def corrupt(ids: Ids, hidden: npt.NDArray[np.bool_], sentinels: Ids) -> tuple[Ids, Ids]:
    """What is read and what is to be written; sentinel n stands for span n, and one more ends the last.

    Spans for which there is no sentinel stay as they are.
    """
    starts = hidden & ~np.concatenate([[False], hidden[:-1]])
    number = np.cumsum(starts) - 1
    hidden = hidden & (number < len(sentinels) - 1)
    starts &= hidden
    number = np.minimum(number, len(sentinels) - 1)
    read = np.where(starts, sentinels[number], ids)[~hidden | starts]
    places = np.flatnonzero(hidden)
    before = np.flatnonzero(starts[places])  # each span's sentinel stands before its first token
    written = np.insert(ids[places], before, sentinels[: len(before)])
    return read, np.append(written, sentinels[len(before)])
