"""Cleaning of texts: normal form, length, quality, language, personal data, and characters that are not valid."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import TYPE_CHECKING, Any

from pretune.data import languages
from pretune.data.ingest.cleaning import quality, scrub
from pretune.data.ingest.values import BadRowError
from pretune.data.rows import CONVERSATIONS, Row, texts
from pretune.errors import ParamsError, did_you_mean

if TYPE_CHECKING:
    from pretune.config.data import CleanParams

EXCERPT = 40  # characters of a text in a message
COLUMNS = ("text", "pair", "question", "target")  # not `context`: answers count its characters
TURN = ("content", "reasoning")  # texts of a message
CHECKED = (*COLUMNS, "context", "words", "label", "labels", "tags", "group", "tools")
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")  # all but tabs, line ends and page ends
SURROGATE = re.compile(r"[\ud800-\udfff]")
BLANKS = re.compile(r"[^\S\n]+")
BLANK_LINES = re.compile(r"\n{3,}")


class Cleaner:
    """Cleans rows by the section `ingest.clean`; `scrubbed` counts the replacements by kind."""

    def __init__(self, params: CleanParams) -> None:
        self._params = params
        self.scrubbed: dict[str, int] = dict.fromkeys(params.scrub, 0)

    def __call__(self, row: Row) -> Row:
        """The clean row. Raises BadRowError with the reason to reject it."""
        for column in CHECKED:
            if column in row:
                value = row[column]
                _check_characters(value if isinstance(value, str) else "\n".join(value), column)
        conversations = {column: row[column] for column in CONVERSATIONS if column in row}
        for column, turns in conversations.items():
            for text in (turn[part] for turn in turns for part in (*TURN, "tool_calls") if part in turn):
                _check_characters(text, column)
        row = row | {column: self._clean_text(row[column]) for column in COLUMNS if column in row}
        row |= {column: [self._clean_turn(turn) for turn in turns] for column, turns in conversations.items()}
        if "text" in row:
            self._check_text(row["text"])
        if self._params.languages:
            self._check_languages(row)
        return row

    def _clean_turn(self, turn: Row) -> Row:
        """A message; in the calls of tools, personal data alone is replaced."""
        clean = {part: self._clean_text(turn[part]) for part in TURN if part in turn}
        if "tool_calls" in turn and self._params.scrub:
            clean["tool_calls"] = json.dumps(self._scrub_values(json.loads(turn["tool_calls"])), ensure_ascii=False)
        return turn | clean

    def _scrub_values(self, value: Any) -> Any:
        """The same JSON with its texts scrubbed: a number within quotes only."""
        if isinstance(value, dict):
            return {key: self._scrub_values(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._scrub_values(inner) for inner in value]
        return self._scrub(value) if isinstance(value, str) else value

    def _clean_text(self, text: str) -> str:
        params = self._params
        if params.unicode != "as is":
            text = unicodedata.normalize("NFC" if params.unicode == "nfc" else "NFKC", text)
        if params.whitespace:
            text = BLANK_LINES.sub("\n\n", BLANKS.sub(" ", text)).strip()
        return self._scrub(text)

    def _scrub(self, text: str) -> str:
        for kind in self._params.scrub:
            text, count = scrub.replace(text, kind)
            self.scrubbed[kind] += count
        return text

    def _check_text(self, text: str) -> None:
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

    def _check_languages(self, row: Row) -> None:
        """Check each text of the row by itself: a translation is in two languages."""
        for text in texts(row):
            language = languages.language(text)
            if language not in {*self._params.languages, languages.UNDETERMINED}:
                raise BadRowError(f"language: {language}", text[:EXCERPT])


def check_languages(codes: list[str]) -> None:
    """Raise ParamsError for codes in `ingest.clean.languages` that language identification does not know."""
    allowed = languages.codes() if codes else []
    unknown = [code for code in codes if code not in allowed]
    if unknown:
        raise ParamsError(
            [f"ingest.clean.languages: unknown language {code!r}{did_you_mean(code, allowed)}" for code in unknown],
            f"the codes are {' '.join(allowed)}",
        )


def _check_characters(text: str, column: str) -> None:
    """Raise BadRowError for control characters and bytes that are not text."""
    if match := CONTROL.search(text):
        raise BadRowError(f"{column}: a control character", f"U+{ord(match.group()):04X}")
    if match := SURROGATE.search(text):
        code = ord(match.group())
        if 0xDC80 <= code <= 0xDCFF:
            raise BadRowError(f"{column}: not in the encoding of ingest.encoding", f"byte 0x{code - 0xDC00:02x}")
        raise BadRowError(f"{column}: half a surrogate pair, which is no character")
