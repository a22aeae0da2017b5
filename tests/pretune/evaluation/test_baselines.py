from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pretune.evaluation import baselines
from pretune.evaluation.metrics import compute
from pretune.objectives.predictions import Answers, Classes, Likelihoods, ManyLabels, Numbers, Tags, Texts

VOCABULARY = {"sea": "waves salt harbour tide", "kitchen": "flour oven butter spoon"}
ROWS = [{"text": f"{n} is about {words}", "label": label} for n in range(15) for label, words in VOCABULARY.items()]
NAMES = ["kitchen", "sea"]


def classes(rows):
    """Targets of labelled rows, with predictions that do not matter."""
    targets = np.array([NAMES.index(row["label"]) for row in rows])
    return Classes(NAMES, targets, np.full((len(rows), 2), 0.5, dtype=np.float32))


def value(predictions):
    """The headline metric."""
    headline = next(iter(compute.metrics(predictions).values()))
    return float(headline.measure(np.ones((1, compute.count(predictions))))[0])


def png(shade):
    """A small picture of one shade, with some noise."""
    noise = np.random.default_rng(shade).integers(0, 20, (6, 6))
    file = io.BytesIO()
    Image.fromarray((noise + shade).astype(np.uint8)).save(file, format="png")
    return file.getvalue()


def test_the_majority_is_that_of_the_training_rows():
    """The most frequent training label for every test row, with its frequency as the probability."""
    majority = baselines.predict(ROWS[:1] * 3 + ROWS[1:2], ROWS, classes(ROWS))["majority"]
    assert set(majority.probabilities.argmax(axis=1)) == {NAMES.index(ROWS[0]["label"])}
    assert majority.probabilities[0].max() == pytest.approx(0.75)


def test_words_separate_easy_classes():
    """By TF-IDF with logistic regression."""
    predictions = baselines.predict(ROWS[:20], ROWS[20:], classes(ROWS[20:]))
    assert value(predictions["tfidf"]) == 1
    assert value(predictions["majority"]) == pytest.approx(0.5)


@pytest.mark.parametrize("form", [Classes, ManyLabels])
def test_a_baseline_is_calibrated_as_the_model_is(form):
    """On the rows that the temperature is fitted to, the log loss falls; the predicted classes stay the same."""
    noisy = [row | {"label": NAMES[n % 3 == 0]} if n % 4 == 0 else row for n, row in enumerate(ROWS)]
    rows = [row | {"labels": [row["label"]]} for row in noisy]
    model = classes(rows)
    if form is ManyLabels:
        model = ManyLabels(NAMES, np.eye(2, dtype=bool)[model.targets], model.probabilities)
    before, after = (baselines.predict(rows[:6], rows, model, validation=v)["tfidf"] for v in (None, rows))
    losses = [compute.metrics(version)["log_loss"].measure(np.ones((1, 30)))[0] for version in (before, after)]
    assert losses[1] < losses[0]
    assert (before.probabilities.argmax(axis=1) == after.probabilities.argmax(axis=1)).all()


def test_chinese_is_classified_without_spaces():
    """By pairs of characters."""
    rows = [
        {"text": f"{text}{n}", "label": label}
        for n in range(9)
        for text, label in (("房间很干净", "sea"), ("服务太差了", "kitchen"))
    ]
    assert value(baselines.predict(rows[:8], rows[8:], classes(rows[8:]))["tfidf"]) == 1


def test_pixels_separate_dark_and_light_images():
    """Images are read as grey values."""
    rows = [{"image": png(n % 2 * 200), "label": NAMES[n % 2]} for n in range(12)]
    assert value(baselines.predict(rows[:6], rows[6:], classes(rows[6:]))["pixels"]) == 1


def test_a_label_without_training_rows_is_never_predicted():
    """With one class in training only the majority baseline remains; a label of no row has probability 0."""
    assert set(baselines.predict(ROWS[:1], ROWS, classes(ROWS))) == {"majority"}
    rows = [{"text": row["text"], "labels": [row["label"]]} for row in ROWS]
    targets = np.array([[row["label"] == "sea", False] for row in ROWS])
    predictions = baselines.predict(
        rows, rows, ManyLabels(["sea", "none"], targets, np.zeros((30, 2), dtype=np.float32))
    )
    assert value(predictions["tfidf"]) == 1
    assert predictions["tfidf"].probabilities[:, 1].max() == 0


def test_numbers_have_their_mean_and_a_linear_model():
    """The linear model fits a linear target; the mean does not."""
    x = np.random.default_rng(0).normal(size=(40, 3))
    y = x @ [[1.0, 2], [0, 1], [3, 0]]
    rows = [{"x": a.tolist(), "y": b.tolist()} for a, b in zip(x, y, strict=True)]
    targets = y[20:].astype(np.float32)
    predictions = baselines.predict(rows[:20], rows[20:], Numbers(targets, targets))
    assert value(predictions["linear"]) < 0.01 < value(predictions["mean"])
    scored = [{"text": row["text"], "score": float(row["label"] == "sea")} for row in ROWS]
    targets = np.array([[row["score"]] for row in scored], dtype=np.float32)
    assert value(baselines.predict(scored, scored, Numbers(targets, targets))["tfidf"]) < 0.3


def test_words_have_their_most_frequent_tag():
    """A new word has the most frequent tag of all."""
    train = [{"words": ["Anna", "sails"], "tags": ["B-PER", "O"]}, {"words": ["he", "sails"], "tags": ["O", "O"]}]
    test = [{"words": ["Anna", "rows"], "tags": ["B-PER", "O"]}]
    predictions = baselines.predict(train, test, Tags([["B-PER", "O"]], [["O", "O"]]))["majority"]
    assert predictions.predicted == [["B-PER", "O"]]


def test_the_nearest_sentence_answers_a_question():
    """The sentence with the words of the question."""
    row = {"context": "The tide rose. Butter melts in the oven.", "question": "Where does butter melt?"}
    predictions = baselines.predict([row], [row], Answers([["in the oven"]], [""], [[]]))["nearest"]
    assert predictions.predicted == ["Butter melts in the oven."]


def test_where_questions_have_no_answer_one_baseline_never_answers():
    """So a model that says nothing is not better than it; without such questions there is none."""
    rows = [{"context": "The tide rose.", "question": "What rose?"}] * 2
    predictions = baselines.predict(rows, rows, Answers([["tide"], []], ["", ""], [[], []]))
    assert predictions["silent"].predicted == ["", ""]
    assert "silent" not in baselines.predict(rows, rows, Answers([["tide"]] * 2, ["", ""], [[], []]))


def test_the_target_of_the_nearest_training_row_is_predicted():
    """Like a translation memory."""
    train = [{"text": "a wave", "target": "eine Welle"}, {"text": "an oven", "target": "ein Ofen"}]
    predictions = baselines.predict(train, [{"text": "the oven", "target": "der Ofen"}], Texts(["der Ofen"], [""]))[
        "nearest"
    ]
    assert predictions.predicted == ["ein Ofen"]


def test_frequencies_of_bytes_predict_a_text_of_few_letters():
    """Two letters, equally often: about one bit a byte."""
    rows = [{"text": "ab" * 5000}]
    tokens = np.array([10000])
    predictions = baselines.predict(rows, rows, Likelihoods(np.array([1.0]), tokens, tokens))["unigram"]
    assert value(predictions) == pytest.approx(1.0, abs=0.2)
