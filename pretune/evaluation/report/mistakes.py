"""The rows on which a model is furthest off: what a person should look at first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pretune.evaluation.metrics.classification import THRESHOLD
from pretune.evaluation.metrics.text import normal, shared_words
from pretune.objectives.predictions import Answers, Classes, Likelihoods, ManyLabels, Numbers, Predictions, Tags, Texts


@dataclass(frozen=True)
class Mistake:
    """row: its number; by: how far off, in words."""

    row: int
    wanted: str
    said: str
    by: str


Ranked = Iterator[tuple[float, Mistake]]  # how bad it is


def worst(found: Predictions, most: int) -> list[Mistake]:
    """At most `most` mistakes, the worst first: those made with most confidence, where a model tells it."""
    ranked = sorted(FORMS[type(found)](found), key=lambda each: (-each[0], each[1].row))
    return [mistake for _, mistake in ranked[:most]]


def _classes(found: Classes) -> Ranked:
    best = found.probabilities.argmax(axis=1)
    for row in np.flatnonzero(best != found.targets):
        sure = float(found.probabilities[row, best[row]])
        yield sure, Mistake(int(row), found.names[found.targets[row]], found.names[best[row]], f"{sure:.3f} sure")


def _many_labels(found: ManyLabels) -> Ranked:
    for row, right in enumerate(found.targets):
        said = found.probabilities[row] >= THRESHOLD
        if (said != right).any():
            off = float(np.abs(found.probabilities[row] - right).max())
            names = [", ".join(np.array(found.names)[each].tolist()) for each in (right, said)]
            yield off, Mistake(row, names[0], names[1], f"{off:.3f} off")


def _numbers(found: Numbers) -> Ranked:
    for row, off in enumerate(np.abs(found.predicted - found.targets).max(axis=1)):
        wanted, said = (", ".join(f"{n:.4g}" for n in each[row]) for each in (found.targets, found.predicted))
        yield float(off), Mistake(row, wanted, said, f"{off:.4g} off")


def _tags(found: Tags) -> Ranked:
    for row, (right, said) in enumerate(zip(found.targets, found.predicted, strict=True)):
        if wrong := sum(a != b for a, b in zip(right, said, strict=True)):
            yield float(wrong), Mistake(row, " ".join(right), " ".join(said), f"{wrong} words")


def _answers(found: Answers) -> Ranked:
    for row, (rights, said) in enumerate(zip(found.targets, found.predicted, strict=True)):
        sure = found.best[row][0][1] if found.best[row] else 0.0
        if normal(said) not in map(normal, rights) and (rights or said):
            near = max((shared_words(right, said) for right in rights), default=0.0)
            yield sure * (1 - near), Mistake(row, " / ".join(rights), said, f"{sure:.3f} sure")


def _texts(found: Texts) -> Ranked:
    from sacrebleu.metrics import CHRF

    chrf = CHRF()
    for row, (right, said) in enumerate(zip(found.targets, found.predicted, strict=True)):
        if said != right:
            near = float(chrf.sentence_score(said, [right]).score)
            yield 100 - near, Mistake(row, right, said, f"chrF {near:.1f}")


def _likelihoods(found: Likelihoods) -> Ranked:
    for row, nats in enumerate(found.nats / found.tokens):
        yield float(nats), Mistake(row, "", "", f"{nats:.3f} nats a token")


FORMS: dict[type, Callable[[Any], Ranked]] = {
    Classes: _classes, ManyLabels: _many_labels, Numbers: _numbers, Tags: _tags, Answers: _answers, Texts: _texts,
    Likelihoods: _likelihoods,
}  # fmt: skip
