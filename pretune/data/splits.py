"""Which labelled rows train and which test: by the hash of the text, so that order is no input."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from pretune.data.rows import Row
from pretune.errors import DataError


@dataclass(frozen=True)
class Splits:
    """Labelled rows; no text is in two parts."""

    train: list[Row]
    validation: list[Row]
    test: list[Row]
    labels: list[str]


def split(rows: list[Row], *, train_rows: int, validation_rows: int, test_rows: int, seed: int) -> Splits:
    """Draw `test_rows`, then `train_rows`, then `validation_rows`, from the labelled rows.

    A row's place depends on its text and the seed alone, never on the rows around it or on their
    order. Raises DataError where the rows do not suffice or a label is in no training row.
    """
    labelled = sorted((row for row in rows if "label" in row), key=lambda row: _rank(row["text"], seed))
    wanted = train_rows + validation_rows + test_rows
    if len(labelled) < wanted:
        raise DataError(
            f"{len(labelled)} labelled rows, but prepare.train_rows + prepare.validation_rows + "
            f"prepare.test_rows is {wanted}",
            "label more rows, or lower these three in params.yaml",
        )
    test, train = labelled[:test_rows], labelled[test_rows : test_rows + train_rows]
    validation = labelled[test_rows + train_rows : wanted]
    labels = sorted({row["label"] for row in train})
    unseen = sorted({row["label"] for row in test + validation} - set(labels))
    if unseen:
        raise DataError(
            f"no training row has the label {', '.join(unseen)}, which test or validation rows have",
            "raise prepare.train_rows in params.yaml, or use another seed",
        )
    if len(labels) < 2:
        raise DataError(f"the labelled rows have one label only ({labels[0]}): nothing to learn")
    return Splits(train, validation, test, labels)


def _rank(text: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{text}".encode("utf-8", "surrogatepass")).digest()
