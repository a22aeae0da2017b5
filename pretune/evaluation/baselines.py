"""Baselines: the most frequent answer, and simple models trained on the same rows."""

from __future__ import annotations

import io
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pretune.data import languages
from pretune.data.rows import Row, last_answer
from pretune.evaluation.metrics import confidence
from pretune.evaluation.metrics.confidence import Probabilistic
from pretune.evaluation.slices import full_text
from pretune.objectives.predictions import (
    Answers,
    Classes,
    Judgements,
    Likelihoods,
    ManyLabels,
    Numbers,
    Predictions,
    Preferences,
    Rankings,
    Replies,
    Tags,
    Texts,
)

INVERSE_STRENGTH = 10.0  # of the penalty of logistic regression, for few rows and many sparse columns
SENTENCE = re.compile(r"[^.!?\u3002\uff01\uff1f\n]+[.!?\u3002\uff01\uff1f]?")


def predict(
    train: list[Row], test: list[Row], model: Predictions, *, validation: list[Row] | None = None
) -> dict[str, Predictions]:
    """{baseline: its predictions for the test rows}, in the form of a `model`'s, with the same targets.

    With `validation` rows, baselines that give probabilities are calibrated on them, as the model was.
    """
    of_form: Callable[..., dict[str, Predictions]] = FORMS[type(model)]
    return of_form(train, test, model, **({"validation": validation} if validation else {}))


def _classes(
    train: list[Row], test: list[Row], model: Classes, *, validation: Sequence[Row] = ()
) -> dict[str, Predictions]:
    names, targets = model.names, model.targets
    labels = np.array([names.index(row["label"]) for row in train])
    shares = np.bincount(labels, minlength=len(names)) / len(labels)
    predictions: dict[str, Predictions] = {
        "majority": Classes(names, targets, np.tile(shares.astype(np.float32), (len(test), 1)))
    }
    name, train_features, other_features = features(train, [*test, *validation])
    if len(set(labels)) > 1:
        from sklearn.linear_model import LogisticRegression

        regression = LogisticRegression(C=INVERSE_STRENGTH, max_iter=1000).fit(train_features, labels)
        probabilities = np.zeros((other_features.shape[0], len(names)), dtype=np.float32)
        probabilities[:, regression.classes_] = regression.predict_proba(other_features)
        validation_labels = np.array([names.index(row["label"]) for row in validation])
        predictions[name] = _calibrated(Classes(names, targets, probabilities), validation_labels)
    return predictions


def _calibrated(predictions: Probabilistic, validation_targets: npt.NDArray[Any]) -> Probabilistic:
    """The predictions for test rows, calibrated if there are targets of validation rows.

    predictions: targets of the test rows; probabilities of the test rows, then of the validation rows.
    """
    test = len(predictions.targets)
    of_test = replace(predictions, probabilities=predictions.probabilities[:test])
    if not len(validation_targets):
        return of_test
    return confidence.calibrate(of_test, predictions.probabilities[test:], validation_targets)


def _many_labels(
    train: list[Row], test: list[Row], model: ManyLabels, *, validation: Sequence[Row] = ()
) -> dict[str, Predictions]:
    names, targets = model.names, model.targets
    labels = np.array([[name in row["labels"] for name in names] for row in train])
    shares = labels.mean(axis=0).astype(np.float32)
    name, train_features, other_features = features(train, [*test, *validation])
    learnable = np.flatnonzero((shares > 0) & (shares < 1))
    predictions: dict[str, Predictions] = {"majority": ManyLabels(names, targets, np.tile(shares, (len(test), 1)))}
    if len(learnable):
        from sklearn.linear_model import LogisticRegression
        from sklearn.multiclass import OneVsRestClassifier

        regression = OneVsRestClassifier(LogisticRegression(C=INVERSE_STRENGTH, max_iter=1000))
        predicted = regression.fit(train_features, labels[:, learnable].astype(int)).predict_proba(other_features)
        probabilities = np.tile(shares, (other_features.shape[0], 1))
        probabilities[:, learnable] = np.asarray(predicted)[:, -len(learnable) :]
        validation_labels = np.array([[name in row["labels"] for name in names] for row in validation])
        predictions[name] = _calibrated(ManyLabels(names, targets, probabilities), validation_labels)
    return predictions


def _numbers(train: list[Row], test: list[Row], model: Numbers) -> dict[str, Predictions]:
    from sklearn.linear_model import Ridge

    targets = model.targets
    train_targets = np.array([row["y"] if "y" in row else [row["score"]] for row in train])
    name, train_features, test_features = features(train, test)
    regression = Ridge(alpha=1e-3 if name == "linear" else 1.0).fit(train_features, train_targets)
    predicted = np.asarray(regression.predict(test_features), dtype=np.float32)
    mean = train_targets.mean(axis=0).astype(np.float32)
    return {
        "mean": Numbers(targets, np.tile(mean, (len(test), 1))),
        name: Numbers(targets, predicted.reshape(targets.shape)),
    }


def features(train: list[Row], test: list[Row]) -> tuple[str, Any, Any]:
    """The name of the simple model, and its features of both sets of rows: TF-IDF, pixels, or the numbers of a row."""
    if "x" in train[0]:
        return "linear", np.array([row["x"] for row in train]), np.array([row["x"] for row in test])
    if "image" in train[0]:
        shape = _pixels(train[0]).shape
        of_train, of_test = (np.stack([_pixels(row, shape).ravel() for row in rows]) for rows in (train, test))
        return "pixels", of_train, of_test
    vectorizer = _vectorizer([full_text(row) for row in train])
    return "tfidf", vectorizer.transform(map(full_text, train)), vectorizer.transform(map(full_text, test))


def _vectorizer(texts: list[str]) -> Any:
    """TF-IDF of words and pairs of words; of characters and their pairs for scripts without spaces between words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    script = Counter(languages.main_script(text) for text in texts[:200]).most_common(1)[0][0]
    units = {"analyzer": "char"} if script in languages.UNSPACED else {"token_pattern": r"\w+"}
    return TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), **units).fit(texts)


def _pixels(row: Row, shape: tuple[int, ...] = ()) -> npt.NDArray[np.float32]:
    """Grey values from 0 to 1: (height, width)."""
    from PIL import Image

    image = Image.open(io.BytesIO(row["image"])).convert("L")
    if shape and image.size != (shape[1], shape[0]):
        image = image.resize((shape[1], shape[0]))
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def _tags(train: list[Row], test: list[Row], model: Tags) -> dict[str, Predictions]:
    """The most frequent tag of each word; for a new word the most frequent tag of all."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in train:
        for word, tag in zip(row["words"], row["tags"], strict=True):
            counts[word][tag] += 1
    default = sum(counts.values(), Counter()).most_common(1)[0][0]
    best = {word: tags.most_common(1)[0][0] for word, tags in counts.items()}
    return {"majority": Tags(model.targets, [[best.get(word, default) for word in row["words"]] for row in test])}


def _answers(_train: list[Row], test: list[Row], model: Answers) -> dict[str, Predictions]:
    nothing: list[list[tuple[str, float]]] = [[] for _ in test]
    predictions: dict[str, Predictions] = {
        "nearest": Answers(model.targets, [_nearest_sentence(row) for row in test], nothing)
    }
    if not all(model.targets):
        predictions["silent"] = Answers(model.targets, [""] * len(test), nothing)
    return predictions


def _nearest_sentence(row: Row) -> str:
    """The sentence of the context that is most similar to the question."""
    sentences = [text.strip() for text in SENTENCE.findall(row["context"]) if text.strip()] or [row["context"]]
    vectorizer = _vectorizer([*sentences, row["question"]])
    return str(sentences[_nearest(vectorizer, [row["question"]], sentences)[0]])


def _texts(train: list[Row], test: list[Row], model: Texts) -> dict[str, Predictions]:
    """The target of the training row whose input is most similar."""
    inputs, targets = zip(*map(_exchange, train), strict=True)
    vectorizer = _vectorizer(list(inputs))
    nearest = _nearest(vectorizer, [_exchange(row)[0] for row in test], list(inputs))
    return {"nearest": Texts(model.targets, [targets[place] for place in nearest])}


def _exchange(row: Row) -> tuple[str, str]:
    """The input and the target; of a conversation all before its last answer, and that."""
    if "messages" not in row:
        return full_text(row), row["target"]
    messages, last = row["messages"], last_answer(row["messages"])
    answer = messages[last]["content"] if last < len(messages) else ""
    return "\n".join(turn["content"] for turn in messages[:last]), row.get("target", answer)


def _nearest(vectorizer: Any, queries: list[str], texts: list[str], batch: int = 500) -> list[int]:
    """For each query the number of the most similar text."""
    library = vectorizer.transform(texts).T
    batches = [queries[start : start + batch] for start in range(0, len(queries), batch)]
    similarities = ((vectorizer.transform(part) @ library).toarray() for part in batches)
    return [int(best) for part in similarities for best in part.argmax(axis=1)]


def _likelihoods(train: list[Row], test: list[Row], model: Likelihoods) -> dict[str, Predictions]:
    """A unigram model of bytes, with the frequencies of the training rows (plus one each)."""
    train_bytes = np.frombuffer(b"".join(map(_target_bytes, train)), dtype=np.uint8)
    frequencies = np.bincount(train_bytes, minlength=256) + 1
    nats = -np.log(frequencies / frequencies.sum())
    per_byte = [nats[np.frombuffer(_target_bytes(row) or b" ", dtype=np.uint8)].mean() for row in test]
    return {"unigram": Likelihoods(np.array(per_byte) * model.bytes, model.tokens, model.bytes)}


def _rankings(train: list[Row], test: list[Row], model: Rankings) -> dict[str, Predictions]:
    """The texts with the most words in common, by TF-IDF."""
    from pretune.objectives.finetuning.embedding import rank

    queries = [row["text"] for row in test]
    pool = sorted({row["pair"] for row in test} | {text for row in test for text in row.get("negatives", ())})
    vectorizer = _vectorizer([text for row in train for text in (row["text"], row["pair"])])
    similarities = (vectorizer.transform(queries) @ vectorizer.transform(pool).T).toarray()
    belong = {query: set(targets) for query, targets in zip(queries, model.targets, strict=True)}
    return {"words": rank(queries, belong, pool, similarities)}


def _preferences(_train: list[Row], _test: list[Row], model: Preferences) -> dict[str, Predictions]:
    """The longer of two answers is preferred: people and judges often do so (Singhal et al. 2023)."""
    lengths = np.array([[len(text) for text in pair] for pair in model.targets], dtype=np.float32).reshape(-1, 2)
    return {"longer": Preferences(model.targets, lengths[:, 0], lengths[:, 1], [None] * len(lengths))}


def _judgements(_train: list[Row], test: list[Row], model: Judgements) -> dict[str, Predictions]:
    """The longer an answer, the better."""
    lengths = [len(row["messages"][last_answer(row["messages"])]["content"]) for row in test]
    return {"longer": Judgements(model.targets, np.array(lengths, dtype=np.float32))}


def _replies(_train: list[Row], _test: list[Row], _model: Replies) -> dict[str, Predictions]:
    """None: what a neighbour answered says nothing of how likely an answer is."""
    return {}


def _target_bytes(row: Row) -> bytes:
    return str(row.get("target") or full_text(row)).encode("utf-8", "replace")


FORMS: dict[type, Any] = {
    Classes: _classes, ManyLabels: _many_labels, Numbers: _numbers, Tags: _tags, Answers: _answers, Texts: _texts,
    Replies: _replies,
    Likelihoods: _likelihoods, Rankings: _rankings, Preferences: _preferences, Judgements: _judgements,
}  # fmt: skip
