"""Problems of labels: told, never mended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from pretune.data.rows import Row

IMBALANCE = 10  # rows of the largest class for one of the smallest, from which it is told
MOST = 2000  # rows that are looked at for suspects
UNLIKELY = 0.2  # probability of a row's own label, below which it is suspect
CUT = 400  # characters of a text that it is judged by
FOLDS = 5
SHOWN = 10  # suspects


def problems(counts: dict[str, dict[str, int]]) -> list[str]:
    """Imbalance, and classes that a split lacks; `counts` are rows by split and label."""
    found = []
    train = counts["train"]
    if train and max(train.values()) >= IMBALANCE * min(train.values()):
        largest, smallest = max(train, key=train.__getitem__), min(train, key=train.__getitem__)
        found.append(f"imbalance: {train[largest]} training rows of {largest}, {train[smallest]} of {smallest}")
    for split in ("validation", "test"):
        missing = sorted(set(train) - set(counts[split])) if counts[split] else []
        if missing:
            found.append(f"{split} has no row of {', '.join(missing)}")
    return found


def suspects(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows whose label a classifier that has not seen them finds unlikely, the worst first.

    Logistic regression on runs of 2 to 5 characters, cross-validated. A hint for a person: a hard row
    is not a wrong one (docs/data.md says how many it finds).
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.multiclass import OneVsRestClassifier

    usable = [row for row in rows if "label" in row and "text" in row][:MOST]
    sizes = Counter(row["label"] for row in usable)
    usable = [row for row in usable if sizes[row["label"]] >= FOLDS]
    if len({row["label"] for row in usable}) < 2:
        return []
    texts = [" ".join(row[name][:CUT] for name in ("text", "pair") if name in row) for row in usable]
    labels = np.array([row["label"] for row in usable])
    runs = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, max_features=20_000)
    classifier = OneVsRestClassifier(LogisticRegression(C=10, solver="liblinear", dual=True, random_state=0))
    chances = cross_val_predict(
        classifier, runs.fit_transform(texts), labels, cv=StratifiedKFold(FOLDS), method="predict_proba"
    )
    names = np.unique(labels)
    own = chances[np.arange(len(labels)), np.searchsorted(names, labels)].round(3)
    worst = [int(number) for number in np.argsort(own, kind="stable") if own[number] < UNLIKELY]
    return [
        {
            "origin": usable[number]["origin"],
            "label": str(labels[number]),
            "likelier": str(names[chances[number].argmax()]),
            "chance": float(own[number]),
        }
        for number in worst[:SHOWN]
    ]
