"""Which labelled rows train and which test: by the hash of the text, so that order is no input."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from pretune.data.documents import Document
from pretune.errors import DataError


@dataclass(frozen=True)
class Splits:
    """Labelled documents; no text is in two parts."""

    train: list[Document]
    validation: list[Document]
    test: list[Document]
    labels: list[str]


def split(documents: list[Document], *, train_rows: int, validation_rows: int, test_rows: int, seed: int) -> Splits:
    """Draw `test_rows`, then `train_rows`, then `validation_rows`, from the labelled documents.

    A row's place depends on its text and the seed alone, never on the rows around it or on their
    order. Raises DataError where the rows do not suffice or a label is in no training row.
    """
    labelled = sorted((d for d in documents if d.label is not None), key=lambda d: _rank(d.text, seed))
    wanted = train_rows + validation_rows + test_rows
    if len(labelled) < wanted:
        raise DataError(
            f"{len(labelled)} labelled documents, but prepare.train_rows + prepare.validation_rows + "
            f"prepare.test_rows is {wanted}",
            "label more documents, or lower these three in params.yaml",
        )
    test, train = labelled[:test_rows], labelled[test_rows : test_rows + train_rows]
    validation = labelled[test_rows + train_rows : wanted]
    labels = sorted({str(d.label) for d in train})
    unseen = sorted({str(d.label) for d in test + validation} - set(labels))
    if unseen:
        raise DataError(
            f"no training row has the label {', '.join(unseen)}, which test or validation rows have",
            "raise prepare.train_rows in params.yaml, or use another seed",
        )
    if len(labels) < 2:
        raise DataError(f"the labelled documents have one label only ({labels[0]}): nothing to learn")
    return Splits(train, validation, test, labels)


def _rank(text: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{text}".encode("utf-8", "surrogatepass")).digest()
