"""Random predictions of every form, for the tests of evaluation and release."""

from __future__ import annotations

import numpy as np
import pytest

from pretune.objectives.predictions import (
    Answers,
    Classes,
    Judgements,
    Likelihoods,
    ManyLabels,
    Numbers,
    Preferences,
    Rankings,
    Replies,
    Tags,
    Texts,
)

WORDS = ["salt", "wave", "tide", "oven", "flour", "spoon", "butter", "harbour"]
ROWS = 60


def classes(names=("kitchen", "land", "sea"), *, seed=0, rows=ROWS, skill=1.5):
    """One class for each row, more often correct than not."""
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, len(names), rows)
    logits = np.random.default_rng(seed + 1).normal(size=(rows, len(names))) + skill * np.eye(len(names))[targets]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Classes(list(names), targets, probabilities.astype(np.float32))


def many_labels(*, seed=0, skill=1.5):
    """Any number of three labels for each row."""
    generator = np.random.default_rng(seed)
    targets = generator.random((ROWS, 3)) < 0.4
    logits = generator.normal(size=(ROWS, 3)) + skill * (targets - 0.5)
    return ManyLabels(["a", "b", "c"], targets, (1 / (1 + np.exp(-logits))).astype(np.float32))


def numbers(*, seed=0, noise=0.5):
    """Two numbers for each row."""
    generator = np.random.default_rng(seed)
    targets = generator.normal(size=(ROWS, 2))
    return Numbers(targets.astype(np.float32), (targets + noise * generator.normal(size=(ROWS, 2))).astype(np.float32))


def tags(*, seed=0, wrong=0.2):
    """A tag of the B-/I- scheme for each word of each row."""
    generator = np.random.default_rng(seed)
    names = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    targets = [[names[i] for i in generator.integers(0, 5, 6)] for _ in range(ROWS)]
    predicted = [
        [tag if generator.random() > wrong else names[generator.integers(0, 5)] for tag in row] for row in targets
    ]
    return Tags(targets, predicted)


def sentence(generator, words=5):
    """A few words."""
    return " ".join(WORDS[i] for i in generator.integers(0, len(WORDS), words))


def texts(*, seed=0):
    """A text for each row, with another word in some."""
    generator = np.random.default_rng(seed)
    targets = [sentence(generator) for _ in range(ROWS)]
    predicted = [text if generator.random() < 0.5 else text.replace("salt", "butter") + " oven" for text in targets]
    return Texts(targets, predicted)


def replies(*, seed=0):
    """The texts, and the likelihood of each reference."""
    made, likely = texts(seed=seed), likelihoods(seed=seed)
    return Replies(made.targets, made.predicted, likely.nats, likely.tokens)


def answers(*, seed=0):
    """An answer to each question, correct in half of the rows."""
    generator = np.random.default_rng(seed)
    targets = [[sentence(generator, 2)] for _ in range(ROWS)]
    predicted = [true[0] if generator.random() < 0.5 else true[0].split()[0] for true in targets]
    return Answers(targets, predicted, [[(answer, 0.7), ("other", 0.3)] for answer in predicted])


def likelihoods(*, seed=0):
    """The likelihood of each row."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(3, 20, ROWS)
    return Likelihoods(tokens * generator.gamma(3.0, 1.0, ROWS), tokens, tokens * 4)


def preferences(*, seed=0):
    """Two answers to each prompt, of which the better one is likelier in most rows, and a reply."""
    generator = np.random.default_rng(seed)
    targets = [[sentence(generator), sentence(generator)] for _ in range(ROWS)]
    chosen, rejected = generator.normal(0.5, 1.0, ROWS), generator.normal(0.0, 1.0, ROWS)
    replies = [pair[int(generator.random() < 0.3)] for pair in targets]
    return Preferences(targets, chosen.astype(np.float32), rejected.astype(np.float32), replies)


def judgements(*, seed=0):
    """Good and bad answers, of which the good ones are likelier."""
    generator = np.random.default_rng(seed)
    targets = generator.random(ROWS) < 0.5
    return Judgements(targets, (generator.normal(size=ROWS) + targets).astype(np.float32))


def rankings(*, seed=0):
    """The places of the text that belongs to each row, the first in most."""
    generator = np.random.default_rng(seed)
    targets = [[sentence(generator)] for _ in range(ROWS)]
    ranks = [[int(place)] for place in generator.geometric(0.6, ROWS)]
    predicted = [target[0] if place == [1] else "other" for target, place in zip(targets, ranks, strict=True)]
    return Rankings(targets, predicted, ranks)


ALL = {
    "classes": classes, "two_classes": lambda **kw: classes(("no", "yes"), **kw), "many_labels": many_labels,
    "numbers": numbers, "tags": tags, "texts": texts, "answers": answers, "likelihoods": likelihoods,
    "preferences": preferences, "judgements": judgements, "rankings": rankings,
    "replies": replies,
}  # fmt: skip


@pytest.fixture(scope="session")
def forms():
    """{name: a function that draws predictions}, of every form."""
    return ALL
