"""The table of docs/reliability.md: how many calls of each part were made to fail, how, and what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tests.faults.check import Result
from tests.faults.injector import CAUSES

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- made by make test-faults -->\n", "<!-- end -->"
KINDS = ("kill", *CAUSES, "clock")


def table(results: Iterable[Result]) -> str:
    """The table, in Markdown. A fault whose call did not come, as its number in a loop varies, is not counted."""
    reached = [result for result in results if result.reached]
    parts = list(dict.fromkeys(result.part for result in reached))
    lines = [
        f"| part | calls | disturbed | faults | {' | '.join(KINDS)} | mishandled |",
        f"|---{'|--:' * (len(KINDS) + 4)}|",
        *(_row(f"`{part}`", [result for result in reached if result.part == part]) for part in parts),
        _row("all", reached),
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, results: list[Result]) -> str:
    kinds = Counter(result.kind for result in results)
    calls = sum({result.part: result.calls for result in results}.values())
    points = len({(result.part, result.point) for result in results})
    wrong = sum(bool(result.problems) for result in results)
    numbers = [calls, points, len(results), *(kinds[kind] for kind in KINDS), wrong]
    return f"| {name} | {' | '.join(f'{number:,}' for number in numbers)} |"


def write(results: Iterable[Result]) -> None:
    """Put the table into the page, in place of the one that it has."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + "\n" + table(results) + "\n" + END + rest.partition(END)[2], encoding="utf-8")
