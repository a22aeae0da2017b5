"""The data card: what came in, what was left out and why, what each split holds; Markdown, HTML and JSON."""

from __future__ import annotations

import html
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pretune.data import languages, rows
from pretune.data.rows import Row, texts

SCANNED = 2000  # rows of each part that lengths and scripts are told of
IDENTIFIED = 500  # rows of each part that languages are told of: a second for 2,000
SAMPLES = 5
EXCERPT = 120  # characters
CAME = {
    "read": "rows read", "quarantined": "quarantined", "exact": "exact duplicates", "near": "near duplicates",
    "conflicting": "of these with another label", "rows": "rows kept",
}  # fmt: skip
SUSPECT = ["origin", "label", "likelier", "chance"]
STYLE = (
    "body{font:14px sans-serif;max-width:60em;margin:2em auto}table{border-collapse:collapse}"
    "td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left}"
)
BOUNDS = (16, 32, 64, 128, 256, 512, 1024, 4096, 16384)  # characters


@dataclass(frozen=True)
class Table:
    """A part of the card."""

    title: str
    head: list[str]
    body: list[list[str]]


def write(folder: Path, facts: dict[str, Any]) -> str:
    """Write card.json, card.md and card.html; return the Markdown."""
    folder.mkdir(parents=True)
    (folder / "card.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    found = _tables(facts)
    text = markdown(facts["source"], found)
    (folder / "card.md").write_text(text, encoding="utf-8")
    (folder / "card.html").write_text(_html(facts["source"], found), encoding="utf-8")
    return text


def facts_of(part: Iterable[Row]) -> dict[str, Any]:
    """Lengths and scripts of the first SCANNED rows, languages of the texts of the first IDENTIFIED."""
    lengths: Counter[str] = Counter()
    scripts: Counter[str] = Counter()
    spoken: Counter[str] = Counter()
    for number, row in zip(range(SCANNED), part, strict=False):
        joined = "\n".join(texts(row))
        if number < IDENTIFIED:
            spoken.update(languages.language(text) for text in texts(row) if text)
        if joined:
            lengths[_bin(len(joined))] += 1
            scripts.update(_script(character) for character in joined[:EXCERPT] if character.isalpha())
    return {
        "lengths": {name: lengths[name] for name in _bins() if lengths[name]},
        "scripts": _shares(scripts),
        "languages": _shares(spoken),
    }


def _shares(counts: Counter[str]) -> dict[str, float]:
    """The share of each, from one in a hundred on."""
    total = counts.total()
    return {name: round(count / total, 3) for name, count in sorted(counts.items()) if count * 100 >= total}


def samples(part: Iterable[Row]) -> list[dict[str, str]]:
    """The first rows, cut short; images and numbers as what they are."""
    return [
        {name: _shown(value) for name, value in row.items() if name != "split"}
        for _, row in zip(range(SAMPLES), part, strict=False)
    ]


def markdown(title: str, found: list[Table]) -> str:
    """The card as Markdown."""
    lines = [f"# Data card: {_plain(title)}"]
    for table in found:
        lines += ["", f"## {table.title}", "", _line(table.head), _line(["---"] * len(table.head))]
        lines += [_line(row) for row in table.body] or [_line(["none", *[""] * (len(table.head) - 1)])]
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(map(_plain, cells))} |"


def _plain(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _html(title: str, found: list[Table]) -> str:
    def cells(row: list[str], kind: str) -> str:
        return "<tr>" + "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in row) + "</tr>"

    parts = [
        f"<h2>{html.escape(table.title)}</h2><table>{cells(table.head, 'th')}"
        f"{''.join(cells(row, 'td') for row in table.body)}</table>"
        for table in found
    ]
    name = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title><style>{STYLE}</style>'
        f"<h1>Data card: {name}</h1>{''.join(parts)}</html>\n"
    )


def _tables(facts: dict[str, Any]) -> list[Table]:
    raw, splits = facts["raw"], facts["splits"]
    lengths = {part: split["lengths"] for part, split in splits.items()}
    scripts, spoken = ({part: split[kind] for part, split in splits.items()} for kind in ("scripts", "languages"))
    balance = {part: split["labels"] for part, split in splits.items()}
    heads = list(dict.fromkeys(name for row in facts["samples"] for name in row))
    tables = [
        Table("Source", ["", ""], [[name, str(facts[name])] for name in ("source", "licence", "md5")]),
        Table("Rows", ["", "rows"], [[words, str(raw[name])] for name, words in CAME.items()]),
        Table("Quarantined", ["reason", "rows"], _pairs(raw["reasons"])),
        Table("Personal data replaced", ["kind", "finds"], _pairs(raw["scrubbed"])),
        Table("Splits", ["split", "rows"], [[part, str(split["rows"])] for part, split in splits.items()]),
        Table("Labels", ["label", *splits], _crossed(balance, sorted(set().union(*balance.values())))),
        Table("Lengths", ["characters, up to", *splits], _crossed(lengths, _bins())),
        Table("Scripts", ["share of letters", *splits], _crossed(scripts, sorted(set().union(*scripts.values())))),
        Table("Languages", ["share of texts", *splits], _crossed(spoken, sorted(set().union(*spoken.values())))),
        Table("Leaks that were stopped", ["kind", "rows"], _pairs(facts["leaks"])),
        Table("Label problems", ["problem"], [[problem] for problem in facts["problems"]]),
        Table("Labels to look at", SUSPECT, [[str(each[name]) for name in SUSPECT] for each in facts["suspects"]]),
        Table("Corpus", ["", ""], _pairs(facts["corpus"])),
        Table("Samples", heads, [[row.get(name, "") for name in heads] for row in facts["samples"]]),
    ]  # fmt: skip
    return [table for table in tables if table.body or table.title == "Quarantined"]


def _pairs(counts: dict[str, Any]) -> list[list[str]]:
    return [[name, str(count)] for name, count in counts.items()]


def _crossed(columns: dict[str, dict[str, Any]], names: list[str]) -> list[list[str]]:
    """A row for each name that any column has."""
    wanted = [name for name in names if any(name in column for column in columns.values())]
    return [[name, *(str(column.get(name, 0)) for column in columns.values())] for name in wanted]


def _bins() -> list[str]:
    return [*map(str, BOUNDS), "more"]


def _bin(length: int) -> str:
    return next((str(bound) for bound in BOUNDS if length <= bound), "more")


@cache
def _script(character: str) -> str:
    """The script as the first word of a character's name in Unicode: LATIN, CJK, CYRILLIC."""
    return unicodedata.name(character, "UNKNOWN").split()[0].split("-")[0]


def _shown(value: Any) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= EXCERPT else text[:EXCERPT] + "…"


def difference(old: Path, new: Path) -> dict[str, Any]:
    """Rows added, removed and relabelled between two snapshots, by content."""
    from pretune.data.similarity.duplicates import content_key

    before, after = ({content_key(row): row.get("label") for row in rows.iterate(path)} for path in (old, new))
    both = before.keys() & after.keys()
    relabelled = Counter(f"{before[key]} → {after[key]}" for key in both if before[key] != after[key])
    return {
        "rows": [len(before), len(after)],
        "added": len(after.keys() - before.keys()),
        "removed": len(before.keys() - after.keys()),
        "relabelled": dict(sorted(relabelled.items())),
    }
