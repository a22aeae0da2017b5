"""The scores of answers to questions, as SQuAD defines them (Rajpurkar et al. 2016; 2018 for no answer)."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

CJK = r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"  # written without spaces: a character is a word


def exact_match(targets: Sequence[str], predicted: str) -> float:
    """1 if the answer is one of the true ones, else 0; of a question without an answer, if nothing is predicted."""
    return max(float(normalise(true) == normalise(predicted)) for true in _true(targets))


def f1(targets: Sequence[str], predicted: str) -> float:
    """F1 of words with the most similar true answer; of a question without an answer 1 if nothing is predicted."""
    return max(word_f1(true, predicted) for true in _true(targets))


def normalise(text: str) -> str:
    """Lower case, without punctuation of any script (Lewis et al. 2020), English articles and extra spaces."""
    kept = "".join(c for c in text.lower() if not (c in string.punctuation or unicodedata.category(c)[0] == "P"))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def word_f1(true: str, predicted: str) -> float:
    """F1 of the words of an answer; in Chinese and Japanese of the characters."""
    first, second = (re.findall(rf"{CJK}|(?:(?!{CJK})\S)+", normalise(text)) for text in (true, predicted))
    shared = sum((Counter(first) & Counter(second)).values())
    if not first or not second:
        return float(first == second)
    return 2 * shared / (len(first) + len(second))


def _true(targets: Sequence[str]) -> Sequence[str]:
    """The true answers, of which one without words is none; "" for a question without any."""
    return [true for true in targets if normalise(true)] or [""]
