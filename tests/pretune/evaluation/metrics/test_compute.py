from __future__ import annotations

import numpy as np
import pytest
import sacrebleu
from scipy import stats
from sklearn import metrics as sk

from pretune.evaluation.metrics import compute
from pretune.evaluation.metrics.bootstrap import Bootstrap
from pretune.evaluation.metrics.text import entities
from pretune.objectives import predictions_io
from pretune.objectives.finetuning.squad import normalise, word_f1
from pretune.objectives.predictions import Answers, Classes, Likelihoods, Tags, Texts

FORMS = ["classes", "two_classes", "many_labels", "numbers", "tags", "texts", "answers", "likelihoods"]
EVERY_FORM = pytest.mark.parametrize("name", FORMS)


@pytest.fixture
def drawn():
    """Weights of sixty rows, some of them nothing."""
    return np.random.default_rng(5).integers(0, 3, 60).astype(float)


def values(predictions, weights):
    """Each metric on rows that occur so often."""
    return {name: float(metric.measure(weights[None])[0]) for name, metric in compute.metrics(predictions).items()}


@EVERY_FORM
def test_every_form_has_metrics_with_intervals(forms, name):
    """Each metric has a value and an interval, which leans to one side where resampling does."""
    predictions = forms[name]()
    result = compute.evaluate_models(
        {"a": predictions, "b": predictions}, Bootstrap(compute.count(predictions), 200, 0.9, 0)
    )
    assert list(result) == ["test_rows", "a", "b", "gain"]
    assert list(result["a"]) == list(compute.metrics(predictions))
    for metric, estimate in result["a"].items():
        inside = estimate["low"] <= estimate["value"] <= estimate["high"]
        assert inside or metric in {"calibration_error", "bleu"}, metric
        assert estimate["low"] < estimate["high"], metric
    assert result["gain"] == {"b": {"value": 0, "low": 0, "high": 0, "p": 1}}


@EVERY_FORM
def test_a_weighted_row_is_a_row_that_occurs_so_often(forms, name, drawn):
    """A weighted metric equals that of the data set with its rows repeated: the bootstrap relies on it."""
    predictions = forms[name]()
    places = np.repeat(np.arange(60), drawn.astype(int))
    rows = {
        field: [value[i] for i in places] if isinstance(value, list) else value[places]
        for field, value in vars(predictions).items()
        if field != "names"
    }
    names = {"names": predictions.names} if hasattr(predictions, "names") else {}
    repeated = type(predictions)(**rows, **names)
    assert values(predictions, drawn) == pytest.approx(values(repeated, np.ones(len(places))), rel=1e-4)


@EVERY_FORM
def test_a_worse_model_has_a_negative_gain_in_every_form(forms, name):
    """Answers of other rows are worse than one's own, whether more or less of the metric is better."""
    predictions = forms[name]()
    shuffled = predictions_io.take(predictions, [*range(30, 60), *range(30)])
    mixed = type(predictions)(
        **(vars(shuffled) | {key: vars(predictions)[key] for key in ("targets",) if key in vars(predictions)})
    )
    if name == "likelihoods":
        mixed = type(predictions)(predictions.nats * 1.5, predictions.tokens, predictions.bytes)
    assert compute.gain(compute.metrics(mixed), compute.metrics(predictions), Bootstrap(60, 200, 0.9, 0)).high < 0


@pytest.mark.parametrize("name", ["classes", "two_classes"])
def test_metrics_of_classes_are_scikit_learns(forms, name, drawn):
    """Each agrees with the library's own, with every row weighted."""
    predictions = forms[name]()
    target, p, two = predictions.targets, predictions.probabilities.astype(float), name == "two_classes"
    predicted, w = p.argmax(axis=1), {"sample_weight": drawn}
    ours = values(predictions, drawn)
    expected = {
        "accuracy": sk.accuracy_score(target, predicted, **w),
        "macro_f1": sk.f1_score(target, predicted, average="macro", **w),
        "weighted_f1": sk.f1_score(target, predicted, average="weighted", **w),
        "macro_precision": sk.precision_score(target, predicted, average="macro", **w),
        "macro_recall": sk.recall_score(target, predicted, average="macro", **w),
        "mcc": sk.matthews_corrcoef(target, predicted, **w),
        "log_loss": sk.log_loss(target, p / p.sum(axis=1, keepdims=True), **w),
        "brier": sk.brier_score_loss(target, p[:, 1] if two else p / p.sum(axis=1, keepdims=True), **w),
        "pr_auc": sk.average_precision_score(target == 1, p[:, 1], **w)
        if two
        else np.mean([sk.average_precision_score(target == k, p[:, k], **w) for k in range(3)]),
    }
    assert {key: ours[key] for key in expected} == pytest.approx(expected, rel=1e-4)
    if two:
        assert ours["roc_auc"] == pytest.approx(sk.roc_auc_score(target, p[:, 1], **w))
    else:
        areas = [sk.roc_auc_score(target == k, p[:, k], **w) for k in range(3)]
        assert ours["roc_auc"] == pytest.approx(np.mean(areas))


def test_tied_scores_are_ranked_together():
    """Areas under curves of three scores only agree with scikit-learn."""
    generator = np.random.default_rng(0)
    target, score = generator.integers(0, 2, 90), generator.integers(0, 3, 90) / 4
    predictions = Classes(["no", "yes"], target, np.column_stack([1 - score, score]).astype(np.float32))
    ours = values(predictions, np.ones(90))
    assert ours["roc_auc"] == pytest.approx(sk.roc_auc_score(target, score))
    assert ours["pr_auc"] == pytest.approx(sk.average_precision_score(target, score))


def test_metrics_of_many_labels_are_scikit_learns(forms, drawn):
    """Each agrees with the library's own."""
    predictions = forms["many_labels"]()
    predicted, w = predictions.probabilities >= 0.5, {"sample_weight": drawn}
    ours = values(predictions, drawn)
    assert ours["micro_f1"] == pytest.approx(sk.f1_score(predictions.targets, predicted, average="micro", **w))
    assert ours["macro_f1"] == pytest.approx(sk.f1_score(predictions.targets, predicted, average="macro", **w))
    assert ours["exact_match"] == pytest.approx(sk.accuracy_score(predictions.targets, predicted, **w))
    assert ours["hamming_loss"] == pytest.approx(sk.hamming_loss(predictions.targets, predicted, **w))
    assert ours["roc_auc"] == pytest.approx(sk.roc_auc_score(predictions.targets, predictions.probabilities, **w))


def test_metrics_of_numbers_are_those_of_the_libraries(forms, drawn):
    """Errors and R² as scikit-learn's, correlations as SciPy's."""
    predictions = forms["numbers"]()
    a, b, w = predictions.targets.astype(float), predictions.predicted.astype(float), {"sample_weight": drawn}
    ours = values(predictions, drawn)
    assert ours["rmse"] == pytest.approx(np.sqrt(sk.mean_squared_error(a, b, **w)))
    assert ours["mae"] == pytest.approx(sk.mean_absolute_error(a, b, **w))
    assert ours["r2"] == pytest.approx(sk.r2_score(a, b, **w))
    plain = values(predictions, np.ones(60))
    assert plain["pearson"] == pytest.approx(np.mean([stats.pearsonr(a[:, i], b[:, i])[0] for i in (0, 1)]))
    assert plain["spearman"] == pytest.approx(np.mean([stats.spearmanr(a[:, i], b[:, i])[0] for i in (0, 1)]))


def test_metrics_of_texts_are_sacrebleus(forms):
    """BLEU and chrF to the digit, with sacrebleu's signature."""
    predictions = forms["texts"]()
    ours = values(predictions, np.ones(60))
    assert ours["bleu"] == pytest.approx(sacrebleu.corpus_bleu(predictions.predicted, [predictions.targets]).score)
    assert ours["chrf"] == pytest.approx(sacrebleu.corpus_chrf(predictions.predicted, [predictions.targets]).score)
    assert compute.metrics(predictions)["bleu"].signature.startswith("nrefs:1|case:mixed|")


def test_a_correct_translation_has_a_bleu_of_100():
    """One without a word in common has a BLEU near 0."""
    rows = ["the ship sailed out at noon", "a tide came in over the sand"]
    assert values(Texts(rows, rows), np.ones(2))["bleu"] == pytest.approx(100)
    assert values(Texts(rows, ["x", "y"]), np.ones(2))["bleu"] < 5


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("B-PER I-PER O B-LOC", {(0, 2, "PER"), (3, 4, "LOC")}),
        ("B-PER B-PER", {(0, 1, "PER"), (1, 2, "PER")}),
        ("I-PER I-PER O", {(0, 2, "PER")}),
        ("B-PER I-LOC", {(0, 1, "PER"), (1, 2, "LOC")}),
        ("O O", set()),
    ],
)
def test_entities_are_read_as_conlleval_reads_them(row, expected):
    """A B- begins one, an I- continues it, or begins one after another type."""
    assert entities(row.split()) == expected


def test_an_entity_counts_when_it_is_complete():
    """One of two true entities is predicted, and one predicted entity is wrong: all scores are a half."""
    predictions = Tags([["B-PER", "I-PER", "O", "B-LOC"]], [["B-PER", "I-PER", "B-LOC", "O"]])
    assert values(predictions, np.ones(1)) == pytest.approx(
        {"entity_f1": 0.5, "entity_precision": 0.5, "entity_recall": 0.5, "accuracy": 0.5}
    )


def test_tags_without_entities_are_scored_by_word():
    """Parts of speech: accuracy, and macro F1 as scikit-learn's over all words."""
    predictions = Tags([["NOUN", "VERB"], ["NOUN"]], [["NOUN", "NOUN"], ["NOUN"]])
    expected = sk.f1_score(["NOUN", "VERB", "NOUN"], ["NOUN"] * 3, average="macro", zero_division=0)
    assert values(predictions, np.ones(2)) == pytest.approx({"accuracy": 2 / 3, "macro_f1": expected})


@pytest.mark.parametrize(
    ("true", "predicted", "exact", "f1"),
    [
        (["The Normans"], "normans", 1, 1),
        (["in 1066", "1066"], "1066.", 1, 1),
        (["William the Conqueror"], "William", 0, 2 / 3),
        (["10世纪"], "10", 0, 2 / 4),
        (["the", "x"], "", 0, 0),
        (["the"], "", 1, 1),
        (["x"], "", 0, 0),
    ],
)
def test_answers_are_scored_as_in_squad(true, predicted, exact, f1):
    """Without case, punctuation and articles, against the best of the true answers; Chinese by characters."""
    predictions = Answers([true], [predicted], [[]])
    assert values(predictions, np.ones(1)) == pytest.approx({"exact_match": exact, "f1": f1})


def test_questions_without_an_answer_are_scored_as_in_squad_2():
    """Nothing but articles and punctuation is no answer; both kinds of questions are also scored apart."""
    targets = [["in 1066", "1066"], ["salt water"], [], [], []]
    predictions = Answers(targets, ["1066", "salt", "", "the .", "salt"], [[]] * 5)
    assert values(predictions, np.ones(5)) == pytest.approx(
        {
            "f1": (1 + 2 / 3 + 1 + 1 + 0) / 5,
            "exact_match": (1 + 0 + 1 + 1 + 0) / 5,
            "has_answer_f1": (1 + 2 / 3) / 2,
            "has_answer_exact_match": 1 / 2,
            "no_answer_f1": 2 / 3,
            "no_answer_exact_match": 2 / 3,
        }
    )


def test_words_of_an_answer_are_counted_once_each():
    """A word that is predicted twice is correct once."""
    assert word_f1("salt", "salt salt") == pytest.approx(2 / 3)
    assert normalise("  A  ship, the   TIDE! ") == "ship tide"


def test_a_confident_model_that_is_correct_half_of_the_time_is_badly_calibrated():
    """The calibration error is the distance between confidence and accuracy."""
    confident = np.tile(np.array([[0.9, 0.1]], dtype=np.float32), (10, 1))
    predictions = Classes(["a", "b"], np.arange(10) % 2, confident)
    assert values(predictions, np.ones(10))["calibration_error"] == pytest.approx(0.4)
    fair = Classes(["a", "b"], np.arange(10) % 10 // 9, confident)
    assert values(fair, np.ones(10))["calibration_error"] == pytest.approx(0.0, abs=1e-6)


def test_a_uniform_guess_has_the_bits_of_its_alphabet():
    """Eight bits a byte where every byte is as likely as any other; the perplexity is that of a token."""
    rows = np.array([4, 9])
    scores = values(Likelihoods(rows * np.log(256), rows, rows), np.ones(2))
    assert scores == pytest.approx({"bits_per_byte": 8, "perplexity": 256, "nats_per_token": np.log(256)})
