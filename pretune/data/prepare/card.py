"""The data card: rows read, rows left out and why, the content of each split; as Markdown, HTML and JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pretune.data import languages, rows
from pretune.data.rows import Row, texts
from pretune.pages.render import Table, render

TEMPLATE = Path(__file__).with_name("card.html.j2")
SCANNED = 2000  # rows of each split whose lengths and scripts are counted
IDENTIFIED = 500  # rows of each split whose languages are identified: 2,000 take a second
SAMPLES = 5
FILES = 50  # that are listed
EXCERPT = 120  # characters
ROW_COUNTS = {
    "read": "rows read", "quarantined": "quarantined", "exact": "exact duplicates", "near": "near duplicates",
    "conflicting": "of these with another label", "rows": "rows kept", "labelled": "of these with a target",
}  # fmt: skip
SUSPECT = ["origin", "label", "likelier", "chance"]
TURNS = (1, 2, 4, 8, 16)  # answers in a conversation
BOUNDS = (16, 32, 64, 128, 256, 512, 1024, 4096, 16384)  # characters


def write(folder: Path, facts: dict[str, Any]) -> str:
    """Write card.json, card.md and card.html; return the Markdown."""
    folder.mkdir(parents=True)
    (folder / "card.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    title, tables = f"Data card: {facts['source']}", _tables(facts)
    text = markdown(title, tables)
    (folder / "card.md").write_text(text, encoding="utf-8")
    (folder / "card.html").write_text(render(TEMPLATE, title=title, tables=tables), encoding="utf-8")
    return text


def facts_of(split: Iterable[Row]) -> dict[str, Any]:
    """Lengths, scripts and conversations of the first SCANNED rows, languages of the texts of the first IDENTIFIED."""
    turns: Counter[str] = Counter()
    conversations: Counter[str] = Counter()
    lengths: Counter[str] = Counter()
    scripts: Counter[str] = Counter()
    identified: Counter[str] = Counter()
    for number, row in zip(range(SCANNED), split, strict=False):
        joined = "\n".join(texts(row))
        if messages := row.get("messages", []) + row.get("chosen", []):
            turns[_bin(sum(turn["role"] == "assistant" for turn in messages), TURNS)] += 1
            conversations.update(_describe(row, messages))
        if number < IDENTIFIED:
            identified.update(languages.language(text) for text in texts(row) if text)
        if joined:
            lengths[_bin(len(joined), BOUNDS)] += 1
            scripts.update(languages.script(character) for character in joined[:EXCERPT] if character.isalpha())
    return {
        "lengths": {name: lengths[name] for name in _bins(BOUNDS) if lengths[name]},
        "scripts": _shares(scripts),
        "languages": _shares(identified),
        "turns": {name: turns[name] for name in _bins(TURNS) if turns[name]},
        "conversations": dict(sorted(conversations.items())),
    }


def _describe(row: Row, messages: list[Row]) -> Iterator[str]:
    """What a conversation has, each thing once, and its messages by role."""
    keys = set[str]().union(*messages)
    has = {"tools": "tools" in row, "calls of tools": "tool_calls" in keys, "reasoning": "reasoning" in keys,
           "weights": "weight" in keys}  # fmt: skip
    yield "conversations"
    yield from (f"conversations with {name}" for name, holds in has.items() if holds)
    yield from (f"messages of {turn['role']}" for turn in messages)


def _shares(counts: Counter[str]) -> dict[str, float]:
    """The share of each name; those below one in a hundred are left out."""
    total = counts.total()
    return {name: round(count / total, 3) for name, count in sorted(counts.items()) if count * 100 >= total}


def samples(split: Iterable[Row]) -> list[dict[str, str]]:
    """The first rows, each value as a short text; of an image its size."""
    return [
        {name: _excerpt(value) for name, value in row.items() if name != "split"}
        for _, row in zip(range(SAMPLES), split, strict=False)
    ]


def markdown(title: str, tables: list[Table]) -> str:
    """The card as Markdown."""
    lines = [f"# {_escaped(title)}"]
    for table in tables:
        lines += ["", f"## {table.title}", "", _line(table.head), _line(["---"] * len(table.head))]
        lines += [_line(row) for row in table.body] or [_line(["none", *[""] * (len(table.head) - 1)])]
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _tables(facts: dict[str, Any]) -> list[Table]:
    raw, splits = facts["raw"], facts["splits"]
    columns = {
        key: {name: split[key] for name, split in splits.items()}
        for key in ("labels", "lengths", "scripts", "languages", "turns", "conversations")
    }
    heads = list(dict.fromkeys(name for row in facts["samples"] for name in row))
    tables = [
        Table("Source", ["", ""], [[name, str(facts[name])] for name in ("source", "licence", "md5")], 2),
        Table("Rows", ["", "rows"], [[words, str(raw[name])] for name, words in ROW_COUNTS.items()]),
        Table("Quarantined", ["reason", "rows"], _pairs(raw["reasons"])),
        Table("Files", ["file", "rows", "labelled"], _files(raw["files"]), 1),
        Table("Parts", ["part of the mixture", "rows"], _pairs(raw.get("parts", {}))),
        Table("Columns left out", ["column of the source", "rows that hold a value"], _pairs(raw["left_out"])),
        Table("Warnings", ["warning"], [[text] for text in raw["warnings"]]),
        Table("Personal data replaced", ["kind", "replacements"], _pairs(raw["scrubbed"])),
        Table("Splits", ["split", "rows"], [[name, str(split["rows"])] for name, split in splits.items()]),
        Table("Labels", ["label", *splits], _crossed(columns["labels"])),
        Table("Lengths", ["characters, up to", *splits], _crossed(columns["lengths"], _bins(BOUNDS))),
        Table("Conversations", ["", *splits], _crossed(columns["conversations"])),
        Table("Turns", ["answers in a conversation, up to", *splits], _crossed(columns["turns"], _bins(TURNS))),
        Table("Scripts", ["share of letters", *splits], _crossed(columns["scripts"])),
        Table("Languages", ["share of texts", *splits], _crossed(columns["languages"])),
        Table("Leaks removed", ["kind", "rows"], _pairs(facts["leaks"])),
        Table("Label problems", ["problem"], [[problem] for problem in facts["problems"]]),
        Table("Labels to look at", SUSPECT, [[str(row[name]) for name in SUSPECT] for row in facts["suspects"]], 3),
        Table("Corpus", ["", ""], _pairs(facts["corpus"])),
        Table("Samples", heads, [[row.get(name, "") for name in heads] for row in facts["samples"]], len(heads)),
    ]  # fmt: skip
    return [table for table in tables if table.body or table.title == "Quarantined"]


def _files(files: dict[str, dict[str, int]]) -> list[list[str]]:
    """The rows of each file, if there are several; those that lack labels come first."""
    if len(files) < 2:
        return []
    least = sorted(files.items(), key=lambda item: item[1]["labelled"] / max(1, item[1]["rows"]))
    lines = [[name, str(count["rows"]), str(count["labelled"])] for name, count in least[:FILES]]
    more = len(files) - FILES
    return [*lines, [f"{more} more files", "", ""]] if more > 0 else lines


def _pairs(counts: dict[str, Any]) -> list[list[str]]:
    return [[name, str(count)] for name, count in counts.items()]


def _crossed(columns: dict[str, dict[str, Any]], order: list[str] | None = None) -> list[list[str]]:
    """A row for each name in any of the columns, in this order or sorted; columns: {head: {name: count or share}}."""
    names = set[str]().union(*columns.values())
    present = sorted(names) if order is None else [name for name in order if name in names]
    return [[name, *(str(column.get(name, 0)) for column in columns.values())] for name in present]


def _bins(bounds: tuple[int, ...]) -> list[str]:
    return [*map(str, bounds), "more"]


def _bin(value: int, bounds: tuple[int, ...]) -> str:
    return next((str(bound) for bound in bounds if value <= bound), "more")


def _excerpt(value: Any) -> str:
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
