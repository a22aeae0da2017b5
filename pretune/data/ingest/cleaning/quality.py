"""Heuristic quality filters for English web text: those of C4, Gopher and FineWeb.

Raffel et al. 2020; Rae et al. 2021, table A1; Penedo et al. 2024. Each function returns the reason to reject a text, or
an empty string.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

SENTENCE_ENDS = (".", "!", "?", '"', "\u201d", "\u2019", "…", "。", "\uff01", "\uff1f")  # Chinese too
SENTENCE = re.compile('(?<![.!?])[.!?]++(?=\\s|$|[")\u201d\u2019])|[。\uff01\uff1f]')
STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}
TOP_N_GRAMS = {2: 0.20, 3: 0.18, 4: 0.16}  # Gopher, table A1: limits for characters in the commonest n-gram
REPEATED_N_GRAMS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}  # in repeated n-grams


def c4(text: str) -> str:
    """At least three sentences, no placeholder text and no code."""
    lowered = text.lower()
    if "lorem ipsum" in lowered:
        return "lorem ipsum"
    if "{" in text:
        return "a curly bracket"
    if "javascript" in lowered and "enable" in lowered:
        return "asks for JavaScript"
    if len(SENTENCE.findall(text)) < 3:
        return "fewer than 3 sentences"
    return ""


def gopher(text: str) -> str:  # noqa: PLR0911 - one return per rule
    """Number and length of words, symbols, bullets, stop words, repetition."""
    words = text.split()
    lines = [line for line in text.splitlines() if line.strip()]
    if not 50 <= len(words) <= 100_000:
        return f"{len(words)} words"
    length = sum(map(len, words)) / len(words)
    if not 3 <= length <= 10:
        return f"words of {length:.1f} characters on average"
    if max(text.count("#"), text.count("...") + text.count("…")) / len(words) > 0.1:
        return "more than one # or … in ten words"
    if sum(line.lstrip().startswith(("•", "-", "*", "‣")) for line in lines) > 0.9 * len(lines):
        return "nine lines in ten begin with a bullet"
    if sum(line.rstrip().endswith(("...", "…")) for line in lines) > 0.3 * len(lines):
        return "three lines in ten end in …"
    if sum(any(map(str.isalpha, word)) for word in words) < 0.8 * len(words):
        return "a fifth of the words has no letter"
    if len(STOP_WORDS.intersection(word.lower() for word in words)) < 2:
        return "fewer than 2 English stop words"
    return _repetition(words, lines)


def _repetition(words: list[str], lines: list[str]) -> str:
    if len(lines) - len(set(lines)) > 0.3 * len(lines):
        return "three lines in ten are repeated"
    characters = sum(map(len, words))
    for n, limit in TOP_N_GRAMS.items():
        (gram, count) = Counter(zip(*(words[i:] for i in range(n)), strict=False)).most_common(1)[0]
        if count > 1 and count * sum(map(len, gram)) > limit * characters:
            return f"one run of {n} words makes up more than {limit:.0%}".replace("%", " %")
    for n, limit in REPEATED_N_GRAMS.items():
        if _repeated(words, n) > limit * characters:
            return f"repeated runs of {n} words make up more than {limit:.0%}".replace("%", " %")
    return ""


def _repeated(words: list[str], n: int) -> int:
    """Characters in n-grams of words that occurred before, each character counted once."""
    seen: set[tuple[str, ...]] = set()
    covered, start = 0, 0
    while start + n <= len(words):
        gram = tuple(words[start : start + n])
        if gram in seen:
            covered += sum(map(len, gram))
            start += n
        else:
            seen.add(gram)
            start += 1
    return covered


def fineweb(text: str) -> str:
    """Lines that end like sentences, few repeated lines and few short ones."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if sum(line.endswith(SENTENCE_ENDS) for line in lines) < 0.12 * len(lines):
        return "fewer than 12 % of the lines end as a sentence does"
    counts = Counter(lines)
    if sum((count - 1) * len(line) for line, count in counts.items()) > 0.1 * sum(map(len, lines)):
        return "more than 10 % of the characters stand in repeated lines"
    if sum(len(line) < 30 for line in lines) > 0.67 * len(lines):
        return "more than 67 % of the lines are shorter than 30 characters"
    return ""


FAMILIES: dict[str, Callable[[str], str]] = {"c4": c4, "gopher": gopher, "fineweb": fineweb}
