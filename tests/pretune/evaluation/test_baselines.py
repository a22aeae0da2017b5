from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pretune.evaluation.baselines import baselines
from pretune.evaluation.metrics import compute
from pretune.objectives.predictions import Answers, Classes, Likelihoods, ManyLabels, Numbers, Tags, Texts

KINDS = {"sea": "waves salt harbour tide", "kitchen": "flour oven butter spoon"}
ROWS = [{"text": f"{n} is about {words}", "label": label} for n in range(15) for label, words in KINDS.items()]
NAMES = ["kitchen", "sea"]


def classes(rows):
    """Targets of labelled rows, with answers that do not matter."""
    targets = np.array([NAMES.index(row["label"]) for row in rows])
    return Classes(NAMES, targets, np.full((len(rows), 2), 0.5, dtype=np.float32))


def value(found):
    """The headline metric."""
    return float(next(iter(compute.metrics(found).values())).measure(np.ones((1, compute.count(found))))[0])


def png(shade):
    """A small picture of one shade, with some noise."""
    noise = np.random.default_rng(shade).integers(0, 20, (6, 6))
    file = io.BytesIO()
    Image.fromarray((noise + shade).astype(np.uint8)).save(file, format="png")
    return file.getvalue()


def test_the_majority_is_that_of_the_training_rows():
    """The commonest training label for every test row, as sure as it is common."""
    found = baselines(ROWS[:1] * 3 + ROWS[1:2], ROWS, classes(ROWS))["majority"]
    assert set(found.probabilities.argmax(axis=1)) == {NAMES.index(ROWS[0]["label"])}
    assert found.probabilities[0].max() == pytest.approx(0.75)


def test_words_tell_easy_kinds_of_text_apart():
    """TF-IDF with logistic regression learns what a person sees at once."""
    found = baselines(ROWS[:20], ROWS[20:], classes(ROWS[20:]))
    assert value(found["tfidf"]) == 1
    assert value(found["majority"]) == pytest.approx(0.5)


@pytest.mark.parametrize("form", [Classes, ManyLabels])
def test_a_baseline_is_calibrated_as_the_model_is(form):
    """On the rows that the temperature is fitted to, the log loss falls and the answers stay."""
    noisy = [row | {"label": NAMES[n % 3 == 0]} if n % 4 == 0 else row for n, row in enumerate(ROWS)]
    rows = [row | {"labels": [row["label"]]} for row in noisy]
    found = classes(rows)
    if form is ManyLabels:
        found = ManyLabels(NAMES, np.eye(2, dtype=bool)[found.targets], found.probabilities)
    before, after = (baselines(rows[:6], rows, found, validation=v)["tfidf"] for v in (None, rows))
    losses = [compute.metrics(each)["log_loss"].measure(np.ones((1, 30)))[0] for each in (before, after)]
    assert losses[1] < losses[0]
    assert (before.probabilities.argmax(axis=1) == after.probabilities.argmax(axis=1)).all()


def test_chinese_is_told_apart_without_spaces():
    """By pairs of characters."""
    rows = [
        {"text": f"{text}{n}", "label": label}
        for n in range(9)
        for text, label in (("房间很干净", "sea"), ("服务太差了", "kitchen"))
    ]
    assert value(baselines(rows[:8], rows[8:], classes(rows[8:]))["tfidf"]) == 1


def test_pixels_tell_dark_from_light():
    """Images are read as grey values."""
    rows = [{"image": png(n % 2 * 200), "label": NAMES[n % 2]} for n in range(12)]
    assert value(baselines(rows[:6], rows[6:], classes(rows[6:]))["pixels"]) == 1


def test_a_label_that_is_never_seen_has_no_model_and_no_crash():
    """One class in training: the majority alone answers. A label of none is foreseen for none."""
    assert set(baselines(ROWS[:1], ROWS, classes(ROWS))) == {"majority"}
    rows = [{"text": row["text"], "labels": [row["label"]]} for row in ROWS]
    targets = np.array([[row["label"] == "sea", False] for row in ROWS])
    found = baselines(rows, rows, ManyLabels(["sea", "none"], targets, np.zeros((30, 2), dtype=np.float32)))
    assert value(found["tfidf"]) == 1
    assert found["tfidf"].probabilities[:, 1].max() == 0


def test_numbers_have_their_mean_and_a_linear_model():
    """What is linear is learnt; the mean explains nothing."""
    x = np.random.default_rng(0).normal(size=(40, 3))
    y = x @ [[1.0, 2], [0, 1], [3, 0]]
    rows = [{"x": a.tolist(), "y": b.tolist()} for a, b in zip(x, y, strict=True)]
    targets = y[20:].astype(np.float32)
    found = baselines(rows[:20], rows[20:], Numbers(targets, targets))
    assert value(found["linear"]) < 0.01 < value(found["mean"])
    scored = [{"text": row["text"], "score": float(row["label"] == "sea")} for row in ROWS]
    targets = np.array([[row["score"]] for row in scored], dtype=np.float32)
    assert value(baselines(scored, scored, Numbers(targets, targets))["tfidf"]) < 0.3


def test_words_have_their_commonest_tag():
    """A word that is new has the commonest of all."""
    train = [{"words": ["Anna", "sails"], "tags": ["B-PER", "O"]}, {"words": ["he", "sails"], "tags": ["O", "O"]}]
    test = [{"words": ["Anna", "rows"], "tags": ["B-PER", "O"]}]
    found = baselines(train, test, Tags([["B-PER", "O"]], [["O", "O"]]))["majority"]
    assert found.predicted == [["B-PER", "O"]]


def test_the_nearest_sentence_answers_a_question():
    """That with the words of the question."""
    row = {"context": "The tide rose. Butter melts in the oven.", "question": "Where does butter melt?"}
    found = baselines([row], [row], Answers([["in the oven"]], [""], [[]]))["nearest"]
    assert found.predicted == ["Butter melts in the oven."]


def test_the_nearest_source_lends_its_target():
    """A translation memory of the training rows."""
    train = [{"text": "a wave", "target": "eine Welle"}, {"text": "an oven", "target": "ein Ofen"}]
    found = baselines(train, [{"text": "the oven", "target": "der Ofen"}], Texts(["der Ofen"], [""]))["nearest"]
    assert found.predicted == ["ein Ofen"]


def test_frequencies_of_bytes_foresee_a_text_of_few_letters():
    """Two letters, equally often: about one bit a byte."""
    rows = [{"text": "ab" * 5000}]
    tokens = np.array([10000])
    found = baselines(rows, rows, Likelihoods(np.array([1.0]), tokens, tokens))["unigram"]
    assert value(found) == pytest.approx(1.0, abs=0.2)
