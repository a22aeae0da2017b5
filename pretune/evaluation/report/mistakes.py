"""The worst mistakes of a model: the rows that a person should look at first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pretune.evaluation.metrics.classification import THRESHOLD
from pretune.objectives.finetuning import squad
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

NO_ANSWER = "(no answer)"


@dataclass(frozen=True)
class Mistake:
    """row: its number; true: the target; predicted: the model's answer; by: the size of the mistake, in words."""

    row: int
    true: str
    predicted: str
    by: str


Ranked = Iterator[tuple[float, Mistake]]  # the first number is larger for worse mistakes


def worst_mistakes(predictions: Predictions, limit: int) -> list[Mistake]:
    """At most `limit` mistakes, the worst first; of classes and answers those with the highest confidence."""
    ranked = sorted(FORMS[type(predictions)](predictions), key=lambda pair: (-pair[0], pair[1].row))
    return [mistake for _, mistake in ranked[:limit]]


def _classes(predictions: Classes) -> Ranked:
    names, targets, probabilities = predictions.names, predictions.targets, predictions.probabilities
    best = probabilities.argmax(axis=1)
    for row in np.flatnonzero(best != targets):
        confidence = float(probabilities[row, best[row]])
        yield confidence, Mistake(int(row), names[targets[row]], names[best[row]], f"{confidence:.3f} sure")


def _many_labels(predictions: ManyLabels) -> Ranked:
    names = np.array(predictions.names)
    for row, (true, probabilities) in enumerate(zip(predictions.targets, predictions.probabilities, strict=True)):
        predicted = probabilities >= THRESHOLD
        if (predicted != true).any():
            error = float(np.abs(probabilities - true).max())
            labels = [", ".join(names[mask].tolist()) for mask in (true, predicted)]
            yield error, Mistake(row, labels[0], labels[1], f"{error:.3f} off")


def _numbers(predictions: Numbers) -> Ranked:
    for row, (true, predicted) in enumerate(zip(predictions.targets, predictions.predicted, strict=True)):
        error = float(np.abs(predicted - true).max())
        texts = [", ".join(f"{number:.4g}" for number in numbers) for numbers in (true, predicted)]
        yield error, Mistake(row, texts[0], texts[1], f"{error:.4g} off")


def _tags(predictions: Tags) -> Ranked:
    for row, (true, predicted) in enumerate(zip(predictions.targets, predictions.predicted, strict=True)):
        if wrong := sum(a != b for a, b in zip(true, predicted, strict=True)):
            yield float(wrong), Mistake(row, " ".join(true), " ".join(predicted), f"{wrong} words")


def _answers(predictions: Answers) -> Ranked:
    for row, (true, predicted) in enumerate(zip(predictions.targets, predictions.predicted, strict=True)):
        confidence = predictions.best[row][0][1] if predictions.best[row] else 0.0
        if not squad.exact_match(true, predicted):
            shown = " / ".join(true) or NO_ANSWER, predicted or NO_ANSWER
            yield confidence * (1 - squad.f1(true, predicted)), Mistake(row, *shown, f"{confidence:.3f} sure")


def _texts(predictions: Texts) -> Ranked:
    from sacrebleu.metrics import CHRF

    chrf = CHRF()
    for row, (true, predicted) in enumerate(zip(predictions.targets, predictions.predicted, strict=True)):
        if predicted != true:
            score = float(chrf.sentence_score(predicted, [true]).score)
            yield 100 - score, Mistake(row, true, predicted, f"chrF {score:.1f}")


def _replies(predictions: Replies) -> Ranked:
    rows = zip(
        predictions.targets, predictions.predicted, predictions.nats / np.maximum(predictions.tokens, 1), strict=True
    )
    for row, (true, predicted, nats) in enumerate(rows):
        yield float(nats), Mistake(row, true, predicted, f"{nats:.3f} nats a token")


def _rankings(predictions: Rankings) -> Ranked:
    rows = zip(predictions.targets, predictions.predicted, predictions.ranks, strict=True)
    for row, (true, predicted, ranks) in enumerate(rows):
        if ranks[0] > 1:
            yield float(ranks[0]), Mistake(row, " / ".join(true), predicted, f"place {ranks[0]}")


def _likelihoods(predictions: Likelihoods) -> Ranked:
    for row, nats in enumerate(predictions.nats / predictions.tokens):
        yield float(nats), Mistake(row, "", "", f"{nats:.3f} nats a token")


def _preferences(predictions: Preferences) -> Ranked:
    margins = predictions.rejected - predictions.chosen
    for row in np.flatnonzero(margins >= 0):
        preferred, other = predictions.targets[row]
        yield float(margins[row]), Mistake(int(row), preferred, other, f"prefers the other by {margins[row]:.3g}")


def _judgements(predictions: Judgements) -> Ranked:
    """Good answers that are less likely than the median, and bad ones that are more likely."""
    distances = predictions.log_probs - np.median(predictions.log_probs) if len(predictions.targets) else np.zeros(0)
    for row in np.flatnonzero((distances > 0) != predictions.targets):
        true, predicted = ("good", "bad") if predictions.targets[row] else ("bad", "good")
        by = f"{predictions.log_probs[row]:.3f} nats a token"
        yield float(abs(distances[row])), Mistake(int(row), true, predicted, by)


FORMS: dict[type, Callable[[Any], Ranked]] = {
    Classes: _classes, ManyLabels: _many_labels, Numbers: _numbers, Tags: _tags, Answers: _answers, Texts: _texts,
    Replies: _replies,
    Likelihoods: _likelihoods, Rankings: _rankings, Preferences: _preferences, Judgements: _judgements,
}  # fmt: skip
