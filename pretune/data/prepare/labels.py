"""Problems of labels: reported, never corrected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from pretune.data.rows import Row

IMBALANCE = 10  # ratio of the largest to the smallest class from which it is reported
MAX_ROWS = 2000  # that are searched for suspects
UNLIKELY = 0.2  # a row is a suspect if the probability of its label is below
MAX_CHARACTERS = 400  # of a text, for the classifier
FOLDS = 5
SHOWN = 10  # suspects


def problems(counts: dict[str, dict[str, int]]) -> list[str]:
    """Imbalance, and classes that a split lacks; `counts` are rows by split and label."""
    messages = []
    train = counts["train"]
    if train and max(train.values()) >= IMBALANCE * min(train.values()):
        largest, smallest = max(train, key=train.__getitem__), min(train, key=train.__getitem__)
        messages.append(f"imbalance: {train[largest]} training rows of {largest}, {train[smallest]} of {smallest}")
    for split in ("validation", "test"):
        missing = sorted(set(train) - set(counts[split])) if counts[split] else []
        if missing:
            messages.append(f"{split} has no row of {', '.join(missing)}")
    return messages


def suspects(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows whose label is unlikely for a classifier that was not trained on them, the least likely first.

    A cross-validated logistic regression on character n-grams of 2 to 5. It is a hint for a person: a hard row need not
    be wrong (docs/data.md says how many it finds).
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.multiclass import OneVsRestClassifier

    usable = [row for row in rows if "label" in row and "text" in row][:MAX_ROWS]
    sizes = Counter(row["label"] for row in usable)
    usable = [row for row in usable if sizes[row["label"]] >= FOLDS]
    if len({row["label"] for row in usable}) < 2:
        return []
    texts = [" ".join(row[name][:MAX_CHARACTERS] for name in ("text", "pair") if name in row) for row in usable]
    labels = np.array([row["label"] for row in usable])
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, max_features=20_000)
    classifier = OneVsRestClassifier(LogisticRegression(C=10, solver="liblinear", dual=True, random_state=0))
    probabilities = cross_val_predict(
        classifier, vectorizer.fit_transform(texts), labels, cv=StratifiedKFold(FOLDS), method="predict_proba"
    )
    names = np.unique(labels)
    own = probabilities[np.arange(len(labels)), np.searchsorted(names, labels)].round(3)
    worst = [int(number) for number in np.argsort(own, kind="stable") if own[number] < UNLIKELY]
    return [
        {
            "origin": usable[number]["origin"],
            "label": str(labels[number]),
            "likelier": str(names[probabilities[number].argmax()]),
            "chance": float(own[number]),
        }
        for number in worst[:SHOWN]
    ]
