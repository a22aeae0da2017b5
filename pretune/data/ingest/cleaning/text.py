"""What makes a text fit to be kept: whole characters, of a length, in the form asked for."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from pretune.data import languages
from pretune.data.ingest.cleaning import quality, scrub
from pretune.data.ingest.columns import BadRowError
from pretune.data.rows import Row, texts
from pretune.errors import ParamsError, did_you_mean

if TYPE_CHECKING:
    from pretune.config.data import CleanParams

EXCERPT = 40  # characters of a text in a reason
COLUMNS = ("text", "pair", "question", "target")  # single texts; answers count the characters of a context
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")  # tabs, line and page ends are none
SURROGATE = re.compile(r"[\ud800-\udfff]")
BLANKS = re.compile(r"[^\S\n]+")
BLANK_LINES = re.compile(r"\n{3,}")


class Cleaner:
    """Cleans rows as `ingest.clean` says; `scrubbed` counts what was replaced, by kind."""

    def __init__(self, params: CleanParams) -> None:
        self._params = params
        self.scrubbed: dict[str, int] = dict.fromkeys(params.scrub, 0)

    def __call__(self, row: Row) -> Row:
        """The row in the form asked for. Raises BadRowError with the reason where it is not to be kept."""
        for column in (*COLUMNS, "context"):
            if column in row:
                _whole(row[column], column)
        for words in (row.get("words", []), *([turn["content"]] for turn in row.get("messages", []))):
            _whole("\n".join(words), "words" if "words" in row else "messages")
        row = row | {column: self._formed(row[column]) for column in COLUMNS if column in row}
        if "messages" in row:
            row["messages"] = [turn | {"content": self._formed(turn["content"])} for turn in row["messages"]]
        if "text" in row:
            self._fit(row["text"])
        if self._params.languages:
            self._understood(row)
        return row

    def _formed(self, text: str) -> str:
        params = self._params
        if params.unicode != "as is":
            text = unicodedata.normalize("NFC" if params.unicode == "nfc" else "NFKC", text)
        if params.whitespace:
            text = BLANK_LINES.sub("\n\n", BLANKS.sub(" ", text)).strip()
        for kind in params.scrub:
            text, count = scrub.replace(text, kind)
            self.scrubbed[kind] += count
        return text

    def _fit(self, text: str) -> None:
        params = self._params
        if not text.strip():
            raise BadRowError("text: nothing in it")
        if len(text) < params.min_characters:
            raise BadRowError(f"text: shorter than {params.min_characters} characters")
        if len(text) > params.max_characters:
            raise BadRowError(f"text: longer than {params.max_characters} characters")
        for family in params.quality:
            if reason := quality.FAMILIES[family](text):
                raise BadRowError(f"quality, {family}", reason)

    def _understood(self, row: Row) -> None:
        """Each text of the row by itself: a translation is in two languages."""
        for text in texts(row):
            found = languages.language(text)
            if found not in {*self._params.languages, languages.UNSURE}:
                raise BadRowError(f"language: {found}", text[:EXCERPT])


def check_languages(codes: list[str]) -> None:
    """Raise ParamsError where `ingest.clean.languages` holds one that nobody can tell."""
    allowed = languages.known() if codes else []
    unknown = [code for code in codes if code not in allowed]
    if unknown:
        raise ParamsError(
            [f"ingest.clean.languages: {code!r} is no language{did_you_mean(code, allowed)}" for code in unknown],
            f"the codes are {' '.join(allowed)}",
        )


def _whole(text: str, column: str) -> None:
    if found := CONTROL.search(text):
        raise BadRowError(f"{column}: a control character", f"U+{ord(found.group()):04X}")
    if found := SURROGATE.search(text):
        code = ord(found.group())
        if 0xDC80 <= code <= 0xDCFF:
            raise BadRowError(f"{column}: not in the encoding of ingest.encoding", f"byte 0x{code - 0xDC00:02x}")
        raise BadRowError(f"{column}: half a surrogate pair, which is no character")
