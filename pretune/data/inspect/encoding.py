"""The encoding of a text file, from its bytes."""

from __future__ import annotations

import codecs
from collections import Counter
from dataclasses import dataclass

from pretune.data import languages

MARKS = {  # byte order marks, the longer first
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
LEGACY = [  # that are tried where a text is not UTF-8
    "cp1252", "cp1250", "cp1254", "cp1257", "cp1251", "koi8_r", "cp1253", "cp1255", "cp1256",
    "gb18030", "big5", "shift_jis", "euc_jp", "cp949",
]  # fmt: skip
LATIN = {  # Windows' encodings of the Latin alphabet, by the languages that need them; of all others it is cp1252
    **dict.fromkeys(("pl", "cs", "sk", "hu", "ro", "hr", "sl", "bs", "sq"), "cp1250"),
    **dict.fromkeys(("tr", "az", "ku"), "cp1254"),
    **dict.fromkeys(("lt", "lv", "et"), "cp1257"),
}
EAST_ASIAN = {
    "gb18030": ("chinese",), "big5": ("chinese",), "cp949": ("hangul",),
    "shift_jis": ("chinese", "japanese"), "euc_jp": ("chinese", "japanese"),
}  # fmt: skip
KANA = {"shift_jis": 0.15, "euc_jp": 0.15}  # share of letters in Japanese at least
OWN = 0.8  # share of letters in the script of the encoding
FALLBACK = "cp1252"
FEW = 0.05  # share of invalid characters among those beyond ASCII, up to which a text is UTF-8 with bad rows
JUDGED = 2**16  # bytes, from lines with other characters than ASCII
NULS = 0.2  # share of zero bytes from which a text without a mark is UTF-16


@dataclass(frozen=True)
class Encoding:
    """name: as Python knows it. why: in a few words. sure: whether nothing else is likely."""

    name: str
    why: str
    sure: bool = True


def detect(content: bytes) -> Encoding:
    """The encoding of a text that begins with these bytes; they may end within a character."""
    for mark, name in MARKS.items():
        if content.startswith(mark):
            return Encoding(name, "begins with a byte order mark")
    if content.count(0) > NULS * max(1, len(content)):
        even = content[::2].count(0) > content[1::2].count(0)
        return Encoding("utf-16-be" if even else "utf-16-le", "every other byte is zero")
    if content.isascii():
        return Encoding("utf-8", "ASCII only")
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(content)
    invalid, others = text.count("\ufffd"), sum(not character.isascii() for character in text)
    if not invalid:
        return Encoding("utf-8", f"{others:,} characters beyond ASCII, all valid")
    if invalid <= FEW * others:
        return Encoding("utf-8", f"{invalid} of {others:,} characters are not valid: their rows are bad", sure=False)
    return _legacy(content)


def _legacy(content: bytes) -> Encoding:
    """The likeliest of LEGACY: by charset-normalizer, and for the Latin alphabet by the language."""
    from charset_normalizer import from_bytes

    lines = [line for line in content.splitlines(keepends=True) if not line.isascii()]
    whole = [line for line in lines if line.endswith((b"\n", b"\r"))] or lines  # a part may end within a character
    judged = b""
    for line in whole:
        if judged and len(judged) + len(line) > JUDGED:
            break
        judged += line
    matches = list(from_bytes(judged, cp_isolation=LEGACY, threshold=0.5, enable_fallback=False))
    matches.sort(key=lambda match: match.encoding not in KANA)  # kana are plain to see
    best = next(
        (match for match in matches if _reads_as_written(judged, match.encoding)), matches[0] if matches else None
    )
    if best is not None and best.encoding not in {FALLBACK, *LATIN.values()}:
        return Encoding(best.encoding, f"not UTF-8; reads as {best.language}")
    found = languages.language(judged.decode(FALLBACK, "replace"))
    for name in (LATIN.get(found, FALLBACK), best.encoding if best else FALLBACK):
        if _decodes(content, name):
            return Encoding(name, f"not UTF-8; the language is {found}", sure=best is not None)
    return Encoding(FALLBACK, "neither UTF-8 nor anything else that is likely", sure=False)


def _decodes(content: bytes, name: str) -> bool:
    try:
        content.decode(name)
    except UnicodeDecodeError:
        return False
    return True


def _reads_as_written(content: bytes, name: str) -> bool:
    """Whether an encoding of East Asia gives letters of its own script: others also decode, to a mixture of scripts."""
    if name not in EAST_ASIAN:
        return True
    letters = [
        character for character in content.decode(name, "replace") if not character.isascii() and character.isalpha()
    ]
    scripts = Counter(languages.script(letter) for letter in letters)
    own = sum(scripts[script] for script in EAST_ASIAN[name])
    return own >= OWN * len(letters) and (name not in KANA or scripts["japanese"] >= KANA[name] * len(letters))
