"""A page that needs nothing besides, and tables in it."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

STYLE = """
:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}h2{margin-top:2.2rem;font-size:1.2rem;border-bottom:1px solid #8884}table{border-collapse:collapse}
.wide{overflow-x:auto}td,th{padding:.25rem .7rem;text-align:left;border-bottom:1px solid #8883;vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}small{opacity:.7}
svg{max-width:100%;height:auto;font:11px system-ui,sans-serif}svg text{fill:currentColor}.axis{stroke:#888;fill:none}
.plots{display:flex;flex-wrap:wrap;gap:1.5rem}figure{margin:0;max-width:400px}figcaption{font-weight:600}
figure.any{max-width:100%}.legend{list-style:none;padding:0;margin:0;font-size:12px}
.legend li{display:inline-block;margin-right:1em}
.legend i{display:inline-block;width:.8em;height:.8em;margin-right:.35em}pre{white-space:pre-wrap;margin:0;font:inherit}
mark{color:inherit;border-radius:2px}.lead{font-size:1.15rem}
img{min-width:56px;max-width:112px}img,svg.seen{image-rendering:pixelated;vertical-align:top}
"""


def document(title: str, body: str) -> str:
    """A page that needs nothing besides; a browser that is offline asks for no icon either."""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><link rel="icon" href="data:,">'
    head += f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def table(head: Iterable[str], body: Iterable[Iterable[str]], *, numbers: Iterable[int] = ()) -> str:
    """An HTML table of cells that are HTML already; `numbers` are the columns to align as such."""
    right = set(numbers)
    rows = [
        "<tr>" + "".join(f'<td class="{"n" if i in right else ""}">{cell}</td>' for i, cell in enumerate(row)) + "</tr>"
        for row in body
    ]
    heads = "".join(f"<th>{each}</th>" for each in head)
    return f'<div class="wide"><table><tr>{heads}</tr>{"".join(rows)}</table></div>'
