"""Predictions with their targets: one dataclass for each form in which models are evaluated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Classes:
    """One class for each row. targets: (rows,) int64; probabilities: (rows, classes)."""

    names: list[str]
    targets: npt.NDArray[np.int64]
    probabilities: Floats


@dataclass(frozen=True)
class ManyLabels:
    """Any number of classes for each row. targets: (rows, classes) bool; probabilities: (rows, classes)."""

    names: list[str]
    targets: npt.NDArray[np.bool_]
    probabilities: Floats


@dataclass(frozen=True)
class Numbers:
    """Numbers for each row. targets, predicted: (rows, numbers)."""

    targets: Floats
    predicted: Floats


@dataclass(frozen=True)
class Tags:
    """A tag for each word of each row."""

    targets: list[list[str]]
    predicted: list[list[str]]


@dataclass(frozen=True)
class Answers:
    """Answers to questions. targets: any of a row's counts as correct; best: (answer, probability), likeliest first."""

    targets: list[list[str]]
    predicted: list[str]
    best: list[list[tuple[str, float]]]


@dataclass(frozen=True)
class Texts:
    """Generated texts, and the reference texts."""

    targets: list[str]
    predicted: list[str]


@dataclass(frozen=True)
class Replies(Texts):
    """Generated answers, and how likely the model finds the reference.

    nats: (rows,), negative log likelihood of the reference; tokens: (rows,), of the reference.
    """

    nats: npt.NDArray[np.float64]
    tokens: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Likelihoods:
    """Likelihoods of texts. nats: (rows,), negative log likelihood of all predicted tokens; tokens, bytes: (rows,)."""

    nats: npt.NDArray[np.float64]
    tokens: npt.NDArray[np.int64]
    bytes: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rankings:
    """Texts found for each row. targets: those that belong to it; predicted: the one found first.

    ranks: the places of the targets among all, from 1, ascending.
    """

    targets: list[list[str]]
    predicted: list[str]
    ranks: list[list[int]]


@dataclass(frozen=True)
class Preferences:
    """How a model scores two answers to each prompt, of which people prefer the first, and what it answers itself.

    targets: the preferred answer and the other one. chosen, rejected: (rows,), their scores: log-probabilities in nats,
    or the rewards of a reward model. replies: the model's own answers, None of a model that writes none.
    """

    targets: list[list[str]]
    chosen: Floats
    rejected: Floats
    replies: list[str | None]


@dataclass(frozen=True)
class Judgements:
    """How likely a model finds answers that people judged. targets: (rows,) bool, True for good ones.

    log_probs: (rows,), nats per token.
    """

    targets: npt.NDArray[np.bool_]
    log_probs: Floats


Predictions = (
    Classes
    | ManyLabels
    | Numbers
    | Tags
    | Answers
    | Texts
    | Replies
    | Likelihoods
    | Rankings
    | Preferences
    | Judgements
)
