"""Which rows train and which test: by the hash of their group, so that no row that is added later moves another.

A row goes to a side (train, validation or test) by its group and the seed alone; where the source has put
it into a split, it stays there. How many rows of a side are used is another matter: so many of each class
as are its due, chosen by hash too.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pretune.data.rows import SUPERVISION, Row
from pretune.data.similarity.duplicates import content_key

if TYPE_CHECKING:
    from pretune.config.data import PrepareParams

SIDES = ("train", "validation", "test")
TRAIN, VALIDATION, TEST, CORPUS, NONE = 0, 1, 2, 3, 4  # CORPUS: given to pretraining only; NONE: nothing to learn in it
GIVEN = {"train": TRAIN, "validation": VALIDATION, "test": TEST, "corpus": CORPUS}

Codes = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


def group_of(row: Row, key: bytes) -> bytes:
    """What keeps rows on one side: their group, the context of a question, or what they say (`key`)."""
    if "group" in row:
        return b"group:" + str(row["group"]).encode()
    if "context" in row:
        return b"context:" + hashlib.sha256(str(row["context"]).encode()).digest()
    return key


def class_of(row: Row) -> str | None:
    """What stratification goes by: the label, or all labels together."""
    if "labels" in row:
        return "\n".join(sorted(row["labels"]))
    label: str | None = row.get("label")
    return label


def is_supervised(row: Row) -> bool:
    """Whether finetuning can learn from the row."""
    return any(name in row for name in SUPERVISION)


class SplitAssigner:
    """Where each row belongs, from one pass over all: `side`, `group` and `rank` (rows,), `stratum` (rows,).

    Rows without anything to predict are NONE, unless no row has: then texts themselves are what is predicted.
    """

    def __init__(self, rows: Iterable[Row], params: PrepareParams, seed: int) -> None:
        groups, ranks = array("Q"), array("Q")  # a number in a list takes seven times the memory
        strata, given, supervised = array("q"), array("q"), array("b")
        self.classes: dict[str, int] = {}
        for row in rows:
            key = content_key(row)
            groups.append(_number(b"%d side " % seed + group_of(row, key)))
            ranks.append(_rank(key, seed))
            name = class_of(row)
            strata.append(-1 if name is None else self.classes.setdefault(name, len(self.classes)))
            given.append(GIVEN.get(row.get("split", ""), -1))
            supervised.append(is_supervised(row))
        self.group, self.rank = np.array(groups, np.uint64), np.array(ranks, np.uint64)
        self.stratum = np.array(strata, np.int64)
        self.side = _sides(self.group, np.array(given, np.int64), params)
        useful = np.array(supervised, bool)
        if useful.any():
            self.side[~useful & (self.side != CORPUS)] = NONE

    def chosen(self, side: int, most: int | None, without: npt.NDArray[np.bool_] | None = None) -> Codes:
        """The numbers of at most `most` rows of a side, each class having its due, in order: (rows,).

        Webster's method: the k-th row of a class of n comes at (k - 1/2) / n. More rows are these and others.
        """
        rows = np.flatnonzero((self.side == side) if without is None else (self.side == side) & ~without)
        rows = rows[_in_turn(self.rank[rows], self.stratum[rows])]
        return np.sort(rows if most is None else rows[:most])


def part(rows: Sequence[Row], share: float, seed: int) -> list[Row]:
    """A share of the rows, in order, each class having its due; what is in a smaller share is in a larger one too."""
    ranks = np.array([_rank(content_key(row), seed) for row in rows], np.uint64)
    classes: dict[str | None, int] = {}
    strata = np.array([classes.setdefault(class_of(row), len(classes)) for row in rows], np.int64)
    chosen = np.sort(_in_turn(ranks, strata)[: round(share * len(rows))])
    return [rows[place] for place in chosen]


def _in_turn(rank: Hashes, stratum: Codes) -> Codes:
    """The places of rows by their turn: of each stratum in the order of their ranks, any first ones in proportion."""
    order = np.argsort(rank, kind="stable")
    strata = stratum[order]
    turn = np.empty(len(order))
    for each in np.unique(strata):
        members = np.flatnonzero(strata == each)
        turn[members] = (np.arange(len(members)) + 0.5) / len(members)
    return order[np.argsort(turn, kind="stable")]


def _sides(group: Hashes, given: Codes, params: PrepareParams) -> Codes:
    """A split that the source gives to no row is drawn from those that are given none, and from `train`."""
    place = group.astype(np.float64) / 2.0**64
    test = 0.0 if (given == TEST).any() else params.test_share
    validation = 0.0 if (given == VALIDATION).any() else params.validation_share
    drawn = np.where(place < test, TEST, np.where(place < test + validation, VALIDATION, TRAIN))
    return np.where((given == -1) | (given == TRAIN), drawn, given)


def labels_of(row: Row) -> list[str]:
    """The names that a head for this row has to know."""
    found = row.get("labels") or row.get("tags") or [row.get("label")]
    return [name for name in found if name is not None]


def ordered(names: Iterable[str]) -> list[str]:
    """Labels in the order of their numbers: as numbers where all are, else as words."""
    found = sorted(set(names))
    return sorted(found, key=int) if all(map(_is_whole, found)) else found


def _rank(key: bytes, seed: int) -> int:
    return _number(b"%d rank " % seed + key)


def _number(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def _is_whole(name: str) -> bool:
    return name.isascii() and name.removeprefix("-").isdigit() and str(int(name)) == name
