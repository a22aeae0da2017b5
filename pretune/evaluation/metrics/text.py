"""Metrics of tags for words, of answers to questions and of texts that were written."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from functools import partial
from typing import Any

import numpy as np

from pretune.evaluation.metrics import statistics
from pretune.evaluation.metrics.bootstrap import Measure, Metric, Values
from pretune.evaluation.metrics.classification import from_counts
from pretune.evaluation.metrics.statistics import Table
from pretune.objectives.predictions import Answers, Tags, Texts

CJK = r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"  # written without spaces: a character is a word


def tags(found: Tags) -> dict[str, Metric]:
    """Whole entities where tags are in the B-/I- scheme, besides single words."""
    words = [len(row) for row in found.targets]
    right = [
        sum(a == b for a, b in zip(*rows, strict=True)) for rows in zip(found.targets, found.predicted, strict=True)
    ]
    accuracy = {"accuracy": Metric(statistics.ratio(right, words))}
    if any(tag.startswith("B-") for row in found.targets for tag in row):
        pairs = [(entities(a), entities(b)) for a, b in zip(found.targets, found.predicted, strict=True)]
        hits, wanted, said = np.array([(len(a & b), len(a), len(b)) for a, b in pairs], dtype=np.float64).T
        return {
            "entity_f1": Metric(statistics.ratio(2 * hits, wanted + said)),
            "entity_precision": Metric(statistics.ratio(hits, said)),
            "entity_recall": Metric(statistics.ratio(hits, wanted)),
        } | accuracy
    return accuracy | {"macro_f1": Metric(_macro_f1(found))}


def entities(row: list[str]) -> set[tuple[int, int, str]]:
    """(first word, word after the last, kind); an I- that follows nothing of its kind begins one, as in conlleval."""
    found, start, kind = set(), 0, ""
    for place, tag in enumerate([*row, "O"]):
        prefix, _, name = tag.partition("-")
        if kind and not (prefix == "I" and name == kind):
            found.add((start, place, kind))
            kind = ""
        if not kind and prefix in {"B", "I"} and name:
            start, kind = place, name
    return found


def answers(found: Answers) -> dict[str, Metric]:
    """Exact match and F1 over words as of SQuAD (Rajpurkar et al. 2016): the best of the right answers counts."""
    pairs = list(zip(found.targets, found.predicted, strict=True))
    exact = [max((normal(said) == normal(right) for right in rights), default=not said) for rights, said in pairs]
    overlap = [max((shared_words(right, said) for right in rights), default=float(not said)) for rights, said in pairs]
    return {"f1": Metric(statistics.mean(overlap)), "exact_match": Metric(statistics.mean(exact))}


def texts(found: Texts) -> dict[str, Metric]:
    """ChrF and BLEU as sacrebleu takes them; their signatures say how.

    chrF first: it agrees with people more often (Kocmi et al. 2021), and BLEU is 0 where no answer has four words.
    """
    from sacrebleu.metrics import BLEU, CHRF

    same = [said.strip() == right.strip() for right, said in zip(found.targets, found.predicted, strict=True)]
    return {
        "chrf": _corpus(CHRF(), found),
        "bleu": _corpus(BLEU(), found),
        "exact_match": Metric(statistics.mean(same)),
    }


def normal(text: str) -> str:
    """Lower case, without punctuation of any language (Lewis et al. 2020), English articles and superfluous space."""
    kept = "".join(c for c in text.lower() if not (c in string.punctuation or unicodedata.category(c)[0] == "P"))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def shared_words(right: str, said: str) -> float:
    """F1 between the words of two answers."""
    first, second = (re.findall(rf"{CJK}|(?:(?!{CJK})\S)+", normal(text)) for text in (right, said))
    shared = sum((Counter(first) & Counter(second)).values())
    if not first or not second:
        return float(first == second)
    return 2 * shared / (len(first) + len(second))


def _macro_f1(found: Tags) -> Measure:
    """Over tags, each of a word; the rows that are drawn are still sentences."""
    names = sorted({tag for part in (found.targets, found.predicted) for row in part for tag in row})
    number = {name: place for place, name in enumerate(names)}
    table = np.zeros((len(found.targets), 3, len(names)))
    for row, (right, said) in enumerate(zip(found.targets, found.predicted, strict=True)):
        for wanted, given in zip(right, said, strict=True):
            table[row, 0, number[wanted]] += wanted == given
            table[row, 1, number[wanted]] += 1
            table[row, 2, number[given]] += 1
    return statistics.of_sums(table.reshape(len(table), -1), partial(from_counts, which="f1", average="macro"))


def _corpus(metric: Any, found: Texts) -> Metric:
    """A metric of sacrebleu's: it adds up statistics of sentences, which are what is drawn."""
    table = np.array(metric._extract_corpus_statistics(found.predicted, [found.targets]))  # public only for one draw

    def function(totals: Table) -> Values:
        return np.array([metric._compute_score_from_stats([round(each) for each in row]).score for row in totals])

    return Metric(statistics.of_sums(table, function), signature=str(metric.get_signature()))
