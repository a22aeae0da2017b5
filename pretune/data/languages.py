"""The language and the script of a text.

Languages by py3langid, naive Bayes over byte n-grams (Lui and Baldwin 2012): 139 of them, by their ISO 639 codes.
The model is part of that package: nothing is downloaded. Scripts by the names that Unicode gives to letters.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import cache
from typing import Any

MAX_CHARACTERS = 200  # the beginning of a text is enough
MIN_PROBABILITY = 0.5  # of the likeliest language; below that the language is undetermined
UNDETERMINED = "und"  # ISO 639-2; mostly texts of a word or two

SCRIPTS = {"CJK": "chinese", "HIRAGANA": "japanese", "KATAKANA": "japanese"}  # others by Unicode's own word
UNSPACED = {"chinese", "japanese"}  # scripts that put no spaces between words


def language(text: str) -> str:
    """The code of the likeliest language, UNDETERMINED if none is likely; `zxx` for text in no language, as numbers."""
    return str(_identifier().classify(text[:MAX_CHARACTERS])[0])


def codes() -> list[str]:
    """Every language code that `language` can return."""
    return sorted(_identifier().labels)


@cache
def script(letter: str) -> str:
    """The script of a letter, by the first word of its name in Unicode: `latin`, `greek`, `chinese`, `japanese`."""
    word = unicodedata.name(letter, "unknown").replace("-", " ").split()[0]
    return SCRIPTS.get(word, word.lower())


def main_script(text: str) -> str:
    """The script of most letters at the beginning of a text; empty if there are none."""
    scripts = Counter(script(character) for character in text[:MAX_CHARACTERS] if character.isalpha())
    return scripts.most_common(1)[0][0] if scripts else ""


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True, min_confidence=MIN_PROBABILITY)
