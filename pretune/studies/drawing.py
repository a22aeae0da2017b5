"""What the charts of sweeps and studies share: a logarithmic axis with round ticks, markers, keys, whole files."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from html import escape
from itertools import pairwise
from typing import Any

from pretune.evaluation.report.charts import BOTTOM, COLOURS, HEIGHT, LOG_MARGIN, Axis, short

LOG_RATIO = 50  # values whose extremes are this far apart get a logarithmic axis
TICK_GAP = 40  # pixels between two ticks
LETTER = 6.3  # pixels that a letter takes at most, on average
ROW, SAMPLE = 16, 22  # pixels of a row of a key, and of the sample before a name
NAME_LENGTH = 40  # characters of a name in a key
BEST, FAINT = COLOURS[1], "#9aa0a6"
ROUND = ((1, (1, 2, 5)), (1, (1,)), (2, (1,)), (3, (1,)), (5, (1,)), (10, (1,)))  # every how many decades, and where
HALO = 'stroke="Canvas" stroke-width="3" stroke-linejoin="round" style="paint-order:stroke"'  # letters over lines
STATES = {
    "complete": COLOURS[0],
    "pruned": COLOURS[7],
    "failed": COLOURS[1],
    "left out": COLOURS[4],
    "running": COLOURS[2],
}
NAMESPACE = "http://www.w3.org/2000/svg"
STYLE = "text{fill:#222;font:11px system-ui,sans-serif}.axis{stroke:#888;fill:none}"


class DecadeAxis(Axis):
    """A logarithmic axis with ticks at round numbers. gap: pixels between them at least."""

    def __init__(self, values: Sequence[float], start: float, end: float, gap: float = TICK_GAP) -> None:
        positive = [value for value in values if math.isfinite(value) and value > 0] or [1.0]
        self.low, self.high = min(positive), max(positive)
        if self.low == self.high:
            self.low, self.high = self.low / 2, self.high * 2
        margin = math.copysign(LOG_MARGIN, end - start)
        self.start, self.end = start + margin, end - margin
        self.ticks = next((ticks for ticks in self._candidates() if self.have_room(ticks, gap)), [self.low, self.high])

    def __call__(self, value: float) -> float:
        """The pixel of a value above 0."""
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def have_room(self, ticks: Sequence[float], gap: float) -> bool:
        """Whether there are two or more ticks, and none too close to the next."""
        near = (abs(self(a) - self(b)) < gap for a, b in pairwise(ticks))
        return len(ticks) > 1 and not any(near)

    def _candidates(self) -> Iterator[list[float]]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for every, factors in ROUND:
            ticks = [factor * 10.0**power for power in range(first, last + 1, every) for factor in factors]
            yield [tick for tick in ticks if self.low * (1 - 1e-9) <= tick <= self.high * (1 + 1e-9)]


def scaled(values: Sequence[float], start: float, end: float, gap: float = TICK_GAP) -> Axis:
    """A logarithmic axis if all values are above 0 and the largest is 50 times the smallest or more, else a linear one.

    The values are finite.
    """
    if values and min(values) > 0 and max(values) / min(values) >= LOG_RATIO:
        return DecadeAxis(values, start, end, gap)
    return Axis(values, start, end)


def value_text(value: Any) -> str:
    """A value of a parameter as YAML writes it, with four digits: null, true, 0.001, lora."""
    if isinstance(value, float) and math.isfinite(value):
        return short(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def point_text(point: dict[str, Any]) -> str:
    """A point in one line: a=1, b=lora."""
    return ", ".join(f"{key}={value_text(value)}" for key, value in point.items())


def shortened_front(name: str, length: int) -> str:
    """The end of a name, where dotted keys differ, escaped."""
    return escape(name if len(name) <= length else "…" + name[1 - length :])


def draw_foot(axis: Axis, x: str, height: float) -> str:
    """The axis below a plot of another height than usual; height: pixels from the top to the axis."""
    return f'<g transform="translate(0,{height - (HEIGHT - BOTTOM)})">{"".join(axis.draw_below(x))}</g>'


def marker(state: str, x: float, y: float, title: str = "") -> str:
    """The mark of a trial at a place in pixels: a dot, a ring if it was pruned, else a cross."""
    colour, tooltip = STATES.get(state, FAINT), f"<title>{escape(title)}</title>" if title else ""
    if state in {"complete", "running"}:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}">{tooltip}</circle>'
    if state == "pruned":
        ring = f'fill="Canvas" stroke="{colour}" stroke-width="1.4"'
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.8" {ring}>{tooltip}</circle>'
    cross = f"M{x - 3:.1f} {y - 3:.1f}l6 6m-6 0l6-6"
    return f'<path d="{cross}" stroke="{colour}" stroke-width="1.6" fill="none">{tooltip}</path>'


def sample(colour: str, *, dashes: str = "", width: float = 1.6) -> str:
    """A piece of a line, for a key."""
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<path d="M0 0h16" stroke="{colour}" stroke-width="{width}"{dashed}/>'


def draw_key(entries: Sequence[tuple[str, str]], left: float, top: float, width: float) -> tuple[list[str], float]:
    """Samples (drawn around the origin) with their names, in columns, and the pixels that they take in height."""
    names = [name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…" for _, name in entries]
    column = SAMPLE + 12 + LETTER * max((len(name) for name in names), default=0)
    columns = max(1, int((width + 12) // column))
    parts = []
    for number, ((drawn, _), name) in enumerate(zip(entries, names, strict=True)):
        x, y = left + number % columns * column, top + number // columns * ROW + ROW / 2
        parts.append(
            f'<g transform="translate({x:.1f},{y:.1f})">{drawn}<text x="{SAMPLE}" y="4">{escape(name)}</text></g>'
        )
    return parts, ROW * math.ceil(len(entries) / columns)


def standalone(chart: str) -> str:
    """A chart as an SVG file of its own: with a background, a style and its key inside.

    chart: what a function of this package or of pretune/evaluation/report/charts.py returns; not empty.
    """
    whole = ET.fromstring(f"<div>{chart}</div>")  # noqa: S314 - our own text
    svg = whole.find("svg")
    assert svg is not None
    width, height = (float(svg.get(side, "0")) for side in ("width", "height"))
    entries = [(_swatch(item), "".join(item.itertext())) for item in whole.iterfind(".//li")]
    key, more = draw_key(entries, 8, height + 4, width - 16)
    total = height + more + (8 if entries else 0)
    inner = "".join(ET.tostring(child, encoding="unicode") for child in svg)
    opening = f'<svg xmlns="{NAMESPACE}" viewBox="0 0 {width:g} {total:g}" width="{width:g}" height="{total:g}">'
    ground = f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>'
    return f"{opening}{ground}{inner}{''.join(key)}</svg>\n".replace('"Canvas"', '"#fff"')


def _swatch(item: ET.Element) -> str:
    colour = next(iter(item)).get("style", "").removeprefix("background:")
    return f'<rect x="4" y="-5" width="10" height="10" fill="{escape(colour)}"/>'
