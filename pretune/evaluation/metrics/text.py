"""Metrics of tags of words, of answers to questions and of generated texts."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from pretune.evaluation.metrics import statistics
from pretune.evaluation.metrics.bootstrap import Measure, Metric, Values
from pretune.evaluation.metrics.classification import f_score
from pretune.evaluation.metrics.statistics import Table
from pretune.objectives.finetuning import squad
from pretune.objectives.predictions import Answers, Replies, Tags, Texts

ANSWER_SCORES = {"f1": squad.f1, "exact_match": squad.exact_match}


def tags(predictions: Tags) -> dict[str, Metric]:
    """Scores of entities if the tags are in the B-/I- scheme; accuracy of single words in any case."""
    rows = list(zip(predictions.targets, predictions.predicted, strict=True))
    correct = [sum(a == b for a, b in zip(*row, strict=True)) for row in rows]
    accuracy = {"accuracy": Metric(statistics.ratio(correct, [len(true) for true, _ in rows]))}
    if any(tag.startswith("B-") for true, _ in rows for tag in true):
        pairs = [(entities(true), entities(predicted)) for true, predicted in rows]
        hits, true, predicted = np.array([(len(a & b), len(a), len(b)) for a, b in pairs], dtype=np.float64).T
        return {
            "entity_f1": Metric(statistics.ratio(2 * hits, true + predicted)),
            "entity_precision": Metric(statistics.ratio(hits, predicted)),
            "entity_recall": Metric(statistics.ratio(hits, true)),
        } | accuracy
    return accuracy | {"macro_f1": Metric(_macro_f1(predictions))}


def entities(row: list[str]) -> set[tuple[int, int, str]]:
    """(first word, word after the last, type); an I- that continues no entity begins one, as in conlleval."""
    spans, start, current = set(), 0, ""
    for place, tag in enumerate([*row, "O"]):
        prefix, _, name = tag.partition("-")
        if current and not (prefix == "I" and name == current):
            spans.add((start, place, current))
            current = ""
        if not current and prefix in {"B", "I"} and name:
            start, current = place, name
    return spans


def answers(predictions: Answers) -> dict[str, Metric]:
    """F1 of words and exact match as in SQuAD; where some questions have no answer, of both kinds apart (SQuAD 2.0)."""
    rows = list(zip(predictions.targets, predictions.predicted, strict=True))
    scores = {name: np.array([score(*row) for row in rows]) for name, score in ANSWER_SCORES.items()}
    result = {name: Metric(statistics.mean(values)) for name, values in scores.items()}
    answered = np.array([bool(targets) for targets in predictions.targets])
    if answered.all():
        return result
    kinds = {"has_answer": answered, "no_answer": ~answered}
    return result | {
        f"{kind}_{name}": Metric(statistics.ratio(values * mask, mask))
        for kind, mask in kinds.items()
        for name, values in scores.items()
    }


def texts(predictions: Texts) -> dict[str, Metric]:
    """ChrF and BLEU by sacrebleu, with its signatures.

    chrF first: it agrees with people more often (Kocmi et al. 2021), and BLEU is 0 where no text has four words.
    """
    from sacrebleu.metrics import BLEU, CHRF

    pairs = zip(predictions.targets, predictions.predicted, strict=True)
    return {
        "chrf": _corpus_metric(CHRF(), predictions),
        "bleu": _corpus_metric(BLEU(), predictions),
        "exact_match": Metric(statistics.mean([predicted.strip() == true.strip() for true, predicted in pairs])),
    }


def replies(predictions: Replies) -> dict[str, Metric]:
    """The mean cross entropy of the tokens of the references first, then the metrics of generated texts."""
    likely = Metric(statistics.ratio(predictions.nats, predictions.tokens), higher=False)
    return {"nats_per_token": likely} | texts(Texts(predictions.targets, predictions.predicted))


def _macro_f1(predictions: Tags) -> Measure:
    """Macro F1 of the tags of words. The rows that the bootstrap draws are still sentences."""
    rows = list(zip(predictions.targets, predictions.predicted, strict=True))
    names = sorted({tag for row in rows for sentence in row for tag in sentence})
    column = {name: number for number, name in enumerate(names)}
    counts = np.zeros((len(rows), 3, len(names)))
    for row, sentences in enumerate(rows):
        for true, predicted in zip(*sentences, strict=True):
            counts[row, 0, column[true]] += true == predicted
            counts[row, 1, column[true]] += 1
            counts[row, 2, column[predicted]] += 1
    return statistics.of_sums(counts.reshape(len(rows), -1), partial(f_score, score="f1", average="macro"))


def _corpus_metric(metric: Any, predictions: Texts) -> Metric:
    """A metric of sacrebleu: it adds up statistics of sentences, which the bootstrap draws."""
    # sacrebleu's public functions score one set of sentences only
    table = np.array(metric._extract_corpus_statistics(predictions.predicted, [predictions.targets]))

    def score(totals: Table) -> Values:
        return np.array([metric._compute_score_from_stats([round(x) for x in row]).score for row in totals])

    return Metric(statistics.of_sums(table, score), signature=str(metric.get_signature()))
