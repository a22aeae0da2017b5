"""What a model has to beat: the commonest answer, and a simple model that learns from the same rows."""

from __future__ import annotations

import io
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pretune.data.rows import Row
from pretune.evaluation import slices
from pretune.evaluation.metrics import confidence
from pretune.evaluation.metrics.confidence import Sure
from pretune.objectives.predictions import Answers, Classes, Likelihoods, ManyLabels, Numbers, Predictions, Tags, Texts

INVERSE_STRENGTH = 10.0  # of the penalty of logistic regression: few rows, many sparse columns
SENTENCE = re.compile(r"[^.!?\u3002\uff01\uff1f\n]+[.!?\u3002\uff01\uff1f]?")


def baselines(
    train: list[Row], test: list[Row], found: Predictions, *, validation: list[Row] | None = None
) -> dict[str, Predictions]:
    """Answers to the test rows in the form of `found`, whose targets they share.

    With `validation` rows, simple models that give probabilities are calibrated on them, as `found` was.
    """
    of_form: Callable[..., dict[str, Predictions]] = FORMS[type(found)]
    return of_form(train, test, found, **({"validation": validation} if validation else {}))


def _classes(
    train: list[Row], test: list[Row], found: Classes, *, validation: Sequence[Row] = ()
) -> dict[str, Predictions]:
    known = np.array([found.names.index(row["label"]) for row in train])
    shares = np.bincount(known, minlength=len(found.names)) / len(known)
    answers: dict[str, Predictions] = {
        "majority": Classes(found.names, found.targets, np.tile(shares.astype(np.float32), (len(test), 1)))
    }
    name, before, after = features(train, [*test, *validation])
    if len(set(known)) > 1:
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=INVERSE_STRENGTH, max_iter=1000).fit(before, known)
        probabilities = np.zeros((after.shape[0], len(found.names)), dtype=np.float32)
        probabilities[:, model.classes_] = model.predict_proba(after)
        right = np.array([found.names.index(row["label"]) for row in validation])
        answers[name] = _calibrated(Classes(found.names, found.targets, probabilities), right)
    return answers


def _calibrated(found: Sure, right: npt.NDArray[Any]) -> Sure:
    """`found` has probabilities for test and validation rows: those for test, by what fits the others' targets."""
    test = len(found.targets)
    said = replace(found, probabilities=found.probabilities[:test])
    return confidence.fitted(said, found.probabilities[test:], right) if len(right) else said


def _many_labels(
    train: list[Row], test: list[Row], found: ManyLabels, *, validation: Sequence[Row] = ()
) -> dict[str, Predictions]:
    known = np.array([[name in row["labels"] for name in found.names] for row in train])
    shares = known.mean(axis=0).astype(np.float32)
    name, before, after = features(train, [*test, *validation])
    learnable = np.flatnonzero((shares > 0) & (shares < 1))
    commonest = np.tile(shares, (len(test), 1))
    answers: dict[str, Predictions] = {"majority": ManyLabels(found.names, found.targets, commonest)}
    if len(learnable):
        from sklearn.linear_model import LogisticRegression
        from sklearn.multiclass import OneVsRestClassifier

        model = OneVsRestClassifier(LogisticRegression(C=INVERSE_STRENGTH, max_iter=1000))
        learnt = model.fit(before, known[:, learnable].astype(int)).predict_proba(after)
        probabilities = np.tile(shares, (after.shape[0], 1))
        probabilities[:, learnable] = np.asarray(learnt)[:, -len(learnable) :]
        right = np.array([[name in row["labels"] for name in found.names] for row in validation])
        answers[name] = _calibrated(ManyLabels(found.names, found.targets, probabilities), right)
    return answers


def _numbers(train: list[Row], test: list[Row], found: Numbers) -> dict[str, Predictions]:
    from sklearn.linear_model import Ridge

    known = np.array([row["y"] if "y" in row else [row["score"]] for row in train])
    name, before, after = features(train, test)
    predicted = Ridge(alpha=1e-3 if name == "linear" else 1.0).fit(before, known).predict(after)
    return {
        "mean": Numbers(found.targets, np.tile(known.mean(axis=0).astype(np.float32), (len(test), 1))),
        name: Numbers(found.targets, np.asarray(predicted, dtype=np.float32).reshape(found.targets.shape)),
    }


def features(train: list[Row], test: list[Row]) -> tuple[str, Any, Any]:
    """The name of the simple model, and what it reads of each row: TF-IDF, pixels, or numbers as they are."""
    if "x" in train[0]:
        return "linear", np.array([row["x"] for row in train]), np.array([row["x"] for row in test])
    if "image" in train[0]:
        shape = _pixels(train[0]).shape
        before, after = (np.stack([_pixels(row, shape).ravel() for row in part]) for part in (train, test))
        return "pixels", before, after
    vectorizer = _vectorizer(slices.text(row) for row in train)
    return "tfidf", vectorizer.transform(map(slices.text, train)), vectorizer.transform(map(slices.text, test))


def _vectorizer(texts: Any) -> Any:
    """Words and pairs of words; pairs of characters where words are not told apart by spaces."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    known = list(texts)
    spaced = Counter(slices.script(each) for each in known[:200]).most_common(1)[0][0] not in {"chinese", "japanese"}
    options = (
        {"token_pattern": r"\w+", "ngram_range": (1, 2)} if spaced else {"analyzer": "char", "ngram_range": (1, 2)}
    )
    return TfidfVectorizer(sublinear_tf=True, **options).fit(known)


def _pixels(row: Row, shape: tuple[int, ...] = ()) -> npt.NDArray[np.float32]:
    """Grey values from 0 to 1: (height, width)."""
    from PIL import Image

    image = Image.open(io.BytesIO(row["image"])).convert("L")
    if shape and image.size != (shape[1], shape[0]):
        image = image.resize((shape[1], shape[0]))
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def _tags(train: list[Row], test: list[Row], found: Tags) -> dict[str, Predictions]:
    """The tag that each word most often has; for a word that is new, the commonest of all."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for row in train:
        for word, tag in zip(row["words"], row["tags"], strict=True):
            seen[word][tag] += 1
    commonest = sum(seen.values(), Counter()).most_common(1)[0][0]
    best = {word: tags.most_common(1)[0][0] for word, tags in seen.items()}
    return {"majority": Tags(found.targets, [[best.get(word, commonest) for word in row["words"]] for row in test])}


def _answers(_train: list[Row], test: list[Row], found: Answers) -> dict[str, Predictions]:
    return {"nearest": Answers(found.targets, [_sentence(row) for row in test], [[] for _ in test])}


def _sentence(row: Row) -> str:
    """The sentence of the context that is most like the question."""
    sentences = [each.strip() for each in SENTENCE.findall(row["context"]) if each.strip()] or [row["context"]]
    vectorizer = _vectorizer([*sentences, row["question"]])
    return str(sentences[_likest(vectorizer, [row["question"]], sentences)[0]])


def _texts(train: list[Row], test: list[Row], found: Texts) -> dict[str, Predictions]:
    """What was written for the training row that is most like each test row."""
    known = [_exchange(row) for row in train]
    vectorizer = _vectorizer([asked for asked, _ in known])
    nearest = _likest(vectorizer, [_exchange(row)[0] for row in test], [asked for asked, _ in known])
    return {"nearest": Texts(found.targets, [known[place][1] for place in nearest])}


def _exchange(row: Row) -> tuple[str, str]:
    """What is asked, and what is to be written; of a conversation its last answer."""
    if "messages" not in row:
        return slices.text(row), row["target"]
    last = max((n for n, each in enumerate(row["messages"]) if each["role"] == "assistant"), default=0)
    return "\n".join(each["content"] for each in row["messages"][:last]), row["messages"][last]["content"]


def _likest(vectorizer: Any, asked: list[str], known: list[str], at_once: int = 500) -> list[int]:
    library = vectorizer.transform(known).T
    parts = [asked[start : start + at_once] for start in range(0, len(asked), at_once)]
    return [int(each) for part in parts for each in (vectorizer.transform(part) @ library).toarray().argmax(axis=1)]


def _likelihoods(train: list[Row], test: list[Row], found: Likelihoods) -> dict[str, Predictions]:
    """Bytes as often as in the training rows (plus one each), whatever stands before them."""
    seen = np.frombuffer(b"".join(map(_written, train)), dtype=np.uint8)
    frequencies = np.bincount(seen, minlength=256) + 1
    nats = -np.log(frequencies / frequencies.sum())
    per_byte = [nats[np.frombuffer(_written(row) or b" ", dtype=np.uint8)].mean() for row in test]
    return {"unigram": Likelihoods(np.array(per_byte) * found.bytes, found.tokens, found.bytes)}


def _written(row: Row) -> bytes:
    return str(row.get("target") or slices.text(row)).encode("utf-8", "replace")


FORMS: dict[type, Any] = {
    Classes: _classes, ManyLabels: _many_labels, Numbers: _numbers, Tags: _tags, Answers: _answers, Texts: _texts,
    Likelihoods: _likelihoods,
}  # fmt: skip
