"""Span corruption (Raffel et al. 2020): spans are replaced by sentinels, and the decoder writes what they hid.

`Thank you <0> me to your party <1> week` is read, `<0> for inviting <1> last <2>` is written. Every
piece of a document is corrupted by itself, so nothing looks across documents.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]


def spans(length: int, rate: float, mean: float, draw: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which of `length` tokens to hide: `rate` of them, in spans of `mean` tokens on average.

    The first token is never hidden, and between two spans one at least is shown. draw: (2, length) in [0, 1).
    """
    if length < 2:
        return np.zeros(length, dtype=np.bool_)
    hidden = min(max(1, round(length * rate)), length - 1)
    number = min(max(1, round(hidden / mean)), hidden, length - hidden)
    lengths = np.stack([_parts(length - hidden, number, draw[0]), _parts(hidden, number, draw[1])], axis=1)
    return np.repeat(np.tile([False, True], number), lengths.reshape(-1))


def _parts(total: int, number: int, draw: npt.NDArray[np.float64]) -> Ids:
    """`total` divided into `number` parts of one at least, all divisions as likely: (number,)."""
    cuts = np.sort(np.argsort(draw[: total - 1], kind="stable")[: number - 1]) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))


def corrupt(ids: Ids, hidden: npt.NDArray[np.bool_], sentinels: Ids, end: int) -> tuple[Ids, Ids]:
    """What is read and what is to be written, both ending in `end`; sentinel n stands for span n.

    Spans beyond the last sentinel stay as they are.
    """
    starts = hidden & ~np.concatenate([[False], hidden[:-1]])
    number = np.cumsum(starts) - 1
    hidden = hidden & (number < len(sentinels) - 1)
    starts &= hidden
    number = np.minimum(number, len(sentinels) - 1)
    read = np.where(starts, sentinels[number], ids)[~hidden | starts]
    written: list[Ids] = []
    for span in np.split(np.flatnonzero(hidden), np.flatnonzero(np.diff(number[hidden])) + 1):
        written += [sentinels[number[span[:1]]], ids[span]]
    last = sentinels[starts.sum()]
    return np.append(read, end), np.concatenate([*written, [last, end]])
