"""Which language rows are told to be in: `python benchmarks/languages.py`, on data sets of five languages.

Of each set the first ROWS texts, each by itself, its first 200 characters: the share told as the language
that they are in, as another one, and as undetermined; and rows per second of processor time. Beside ours
lingua (`pip install lingua-language-detector`), where that is installed.
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from pretune.data import languages

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
ROWS = 1000


def main() -> None:
    """Print a row for each set and identifier."""
    print(f"{'identifier':<16}{'texts':<26}{'rows':>6}{'right':>8}{'other':>8}{'unsure':>8}{'rows/s':>9}")
    for name, identify in identifiers():
        identify("The model is read when it is first needed.")
        for title, spoken, texts in sets():
            began = os.times()
            found = [identify(text[: languages.MAX_CHARACTERS]) for text in texts]
            ended = os.times()
            right, unsure = (found.count(code) / len(found) for code in (spoken, languages.UNDETERMINED))
            speed = len(found) / max(ended.user + ended.system - began.user - began.system, 0.01)
            shares = "".join(f"{share:>8.3f}" for share in (right, 1 - right - unsure, unsure))
            print(f"{name:<16}{title:<26}{len(found):>6}{shares}{speed:>9.0f}", flush=True)


def identifiers() -> Iterator[tuple[str, Callable[[str], str]]]:
    """Ours, and lingua with its large and its small models."""
    yield "py3langid", languages.language
    if importlib.util.find_spec("lingua") is None:
        return
    from lingua import LanguageDetectorBuilder

    for name, small in (("lingua", False), ("lingua, small", True)):
        builder = LanguageDetectorBuilder.from_all_languages()
        detector = (builder.with_low_accuracy_mode() if small else builder).build()

        def identify(text: str, detector: object = detector) -> str:
            found = detector.detect_language_of(text)  # type: ignore[attr-defined]
            return found.iso_code_639_1.name.lower() if found else languages.UNDETERMINED

        yield name, identify


def sets() -> Iterator[tuple[str, str, list[str]]]:
    """(title, language, texts) of what there is."""
    sentences = (DATA / "sst2" / "dev.tsv").read_text(encoding="utf-8").splitlines()
    yield "SST-2, English", "en", [line.rpartition("\t")[0] for line in sentences][:ROWS]
    for code, name in (("en", "English"), ("de", "German")):
        with gzip.open(DATA / "multi30k" / f"val.{code}.gz", "rt", encoding="utf-8") as file:
            yield f"Multi30k, {name}", code, file.read().splitlines()[:ROWS]
    with (DATA / "ag_news" / "ag_news_7600.csv").open(encoding="utf-8", newline="") as file:
        yield "AG News, English", "en", [" ".join(fields[1:]) for fields in csv.reader(file)][:ROWS]
    with (DATA / "chnsenticorp" / "ChnSentiCorp_htl_all.csv").open(encoding="utf-8", newline="") as file:
        yield "hotel reviews, Chinese", "zh", [text for _, text in csv.reader(file) if text.strip()][1 : ROWS + 1]
    for code, name in (("en", "English"), ("de", "German"), ("zh", "Chinese")):
        content = json.loads((DATA / "xquad" / f"xquad.{code}.json").read_text(encoding="utf-8"))
        paragraphs = [paragraph for article in content["data"] for paragraph in article["paragraphs"]]
        asked = [entry["question"] for paragraph in paragraphs for entry in paragraph["qas"]]
        yield f"XQuAD questions, {name}", code, asked[:ROWS]


if __name__ == "__main__":
    main()
