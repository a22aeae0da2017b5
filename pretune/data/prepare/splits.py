"""Assigns rows to train, validation and test by the hash of their group, so that added rows never move other rows.

A row's split depends on its group and the seed alone; rows that the source puts into a split stay there. How many rows
of a split are used is decided separately: a stratified selection, by hash too.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pretune.data.rows import Row, is_supervised, last_answer
from pretune.data.similarity.duplicates import content_key

if TYPE_CHECKING:
    from pretune.config.data import PrepareParams

SPLITS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST, CORPUS, NONE = 0, 1, 2, 3, 4  # CORPUS: for pretraining only; NONE: without a target
CODES = {"train": TRAIN, "validation": VALIDATION, "test": TEST, "corpus": CORPUS}

Codes = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


def group_of(row: Row, key: bytes) -> bytes:
    """What keeps rows in one split: their group, the context of a question, the prompt of a preference, their content.

    key: of the content.
    """
    if "group" in row:
        return b"group:" + str(row["group"]).encode()
    if "context" in row:
        return b"context:" + hashlib.sha256(str(row["context"]).encode()).digest()
    if "chosen" in row or "desirable" in row:
        prompt = row["messages"] if "chosen" in row else row["messages"][: last_answer(row["messages"])]
        return b"prompt:" + hashlib.sha256(repr(prompt).encode("utf-8", "surrogatepass")).digest()
    return key


def class_of(row: Row) -> str | None:
    """The class for stratification: the label, or all labels together."""
    if "labels" in row:
        return "\n".join(sorted(row["labels"]))
    label: str | None = row.get("label")
    return label


class SplitAssigner:
    """The split of each row, from one pass over all rows: `split`, `group`, `rank` and `stratum`, (rows,) each.

    Rows without a target are NONE, unless no row has one: then the texts themselves are the target. Those of the
    corpus do not count.
    """

    def __init__(self, rows: Iterable[Row], params: PrepareParams, seed: int) -> None:
        groups, ranks = array("Q"), array("Q")  # lists of numbers take seven times the memory
        strata, declared, supervised = array("q"), array("q"), array("b")
        classes: dict[str, int] = {}
        for row in rows:
            key = content_key(row)
            groups.append(_hash(b"%d side " % seed + group_of(row, key)))
            ranks.append(_rank(key, seed))
            name = class_of(row)
            strata.append(-1 if name is None else classes.setdefault(name, len(classes)))
            declared.append(CODES.get(row.get("split", ""), -1))
            supervised.append(is_supervised(row))
        self.group, self.rank = np.array(groups, np.uint64), np.array(ranks, np.uint64)
        self.stratum = np.array(strata, np.int64)
        self.split = _draw(self.group, np.array(declared, np.int64), params)
        has_target, trained = np.array(supervised, bool), self.split != CORPUS
        if (has_target & trained).any():
            self.split[~has_target & trained] = NONE

    def select(self, split: int, limit: int | None, without: npt.NDArray[np.bool_] | None = None) -> Codes:
        """The ascending numbers of at most `limit` rows of a split, stratified by class: (rows,).

        By Webster's method: the k-th row of a class of n comes at (k - 1/2) / n. A higher limit only adds rows.
        """
        rows = np.flatnonzero((self.split == split) if without is None else (self.split == split) & ~without)
        rows = rows[_stratified_order(self.rank[rows], self.stratum[rows])]
        return np.sort(rows if limit is None else rows[:limit])


def stratified_sample(rows: Sequence[Row], share: float, seed: int) -> list[Row]:
    """A share of the rows, in their order, stratified by class; the rows of a smaller share are in each larger one."""
    ranks = np.array([_rank(content_key(row), seed) for row in rows], np.uint64)
    classes: dict[str | None, int] = {}
    strata = np.array([classes.setdefault(class_of(row), len(classes)) for row in rows], np.int64)
    numbers = np.sort(_stratified_order(ranks, strata)[: round(share * len(rows))])
    return [rows[number] for number in numbers]


def _stratified_order(rank: Hashes, stratum: Codes) -> Codes:
    """The indices of rows in an order of which every beginning holds each stratum in proportion, by rank within it."""
    order = np.argsort(rank, kind="stable")
    strata = stratum[order]
    turn = np.empty(len(order))
    for number in np.unique(strata):
        members = np.flatnonzero(strata == number)
        turn[members] = (np.arange(len(members)) + 0.5) / len(members)
    return order[np.argsort(turn, kind="stable")]


def _draw(group: Hashes, declared: Codes, params: PrepareParams) -> Codes:
    """Splits that the source does not have are drawn from rows without a split and from those in `train`.

    None are drawn for validation where `validation_rows` is 0.
    """
    position = group.astype(np.float64) / 2.0**64
    test = 0.0 if (declared == TEST).any() else params.test_share
    no_validation = params.validation_rows == 0 or (declared == VALIDATION).any()
    validation = 0.0 if no_validation else params.validation_share
    drawn = np.where(position < test, TEST, np.where(position < test + validation, VALIDATION, TRAIN))
    return np.where((declared == -1) | (declared == TRAIN), drawn, declared)


def labels_of(row: Row) -> list[str]:
    """The names of the classes that occur in a row."""
    labels = row.get("labels") or row.get("tags") or [row.get("label")]
    return [label for label in labels if label is not None]


def sort_labels(labels: Iterable[str]) -> list[str]:
    """Distinct labels in the order of their ids: as numbers if all are whole numbers, else as texts."""
    distinct = sorted(set(labels))
    return sorted(distinct, key=int) if all(map(_is_whole, distinct)) else distinct


def _rank(key: bytes, seed: int) -> int:
    return _hash(b"%d rank " % seed + key)


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def _is_whole(label: str) -> bool:
    return label.isascii() and label.removeprefix("-").isdigit() and str(int(label)) == label
