"""HTML pages from Jinja2 templates. A page is self-contained: it needs no network and runs no script."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

FOLDER = Path(__file__).parent  # holds the layout, the macros and the stylesheet


@dataclass(frozen=True)
class Table:
    """A titled table. `body` holds texts, numbers and estimates: mappings with `value`, `low` and `high`.

    The first `text_columns` columns are aligned left, the others as numbers.
    """

    title: str
    head: list[str]
    body: list[list[Any]]
    text_columns: int = 1


def render(template: Path, **values: Any) -> str:
    """The page that a template makes of `values`; the template usually extends `layout.html.j2`.

    All values are escaped. A template marks as safe only the SVG that our own code draws.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, FOLDER]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template.name).render(values)
