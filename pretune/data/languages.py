"""Which language a text is in, by py3langid: naive Bayes over runs of bytes (Lui and Baldwin 2012).

139 languages by their ISO 639 codes. The model travels with the package: nothing is fetched.
"""

from __future__ import annotations

from functools import cache
from typing import Any

READ = 200  # characters from the beginning that are looked at
SURE = 0.5  # probability of a language from which it is named
UNSURE = "und"  # ISO 639-2: undetermined; texts of a word or two, mostly


def language(text: str) -> str:
    """The code of the likeliest language, UNSURE where none is likely; `zxx` is no language, as numbers are."""
    return str(_identifier().classify(text[:READ])[0])


def known() -> list[str]:
    """Every code that may be found."""
    return sorted(_identifier().labels)


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True, min_confidence=SURE)
