"""Parallel coordinates: an axis for each parameter, a line for each point (Inselberg 1985)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

from pretune.evaluation.report.charts import Axis, as_svg, short
from pretune.studies.drawing import BEST, FAINT, HALO, point_text, scaled, shortened_front, value_text

WIDTH = 1040  # pixels
LEFT, RIGHT, TOP, BOTTOM = 70, 60, 44, 34  # margins
LOWEST = 300  # pixel of the lower end of an axis
NONE = LOWEST + 22  # pixel of points without a value
SPACES = 96, 220  # pixels between axes: the least and the most
TICKS, TICK_ROOM = 8, 13  # values that are ticks themselves, and pixels between them
CATEGORY_MARGIN = 14  # pixels from the ends of an axis to its categories
BOLD_LETTER = 7.6  # pixels that a bold letter takes at most, on average
STRIP = 24  # colours on the axis of the metric
COLD, WARM = (168, 174, 182), (37, 99, 168)  # the worst and the best


@dataclass(frozen=True)
class _Coordinate:
    """An axis. ticks: (pixel, text)."""

    name: str
    places: Mapping[str, float]  # of values, by their JSON
    ticks: list[tuple[float, str]]

    def __call__(self, value: Any) -> float | None:
        return self.places.get(repr(value))


def parallel_coordinates(trials: Sequence[tuple[dict[str, Any], float]], metric: str, higher: bool) -> str:
    """An axis for each key of the points and one for the metric; the best line is drawn last, and thicker.

    trials: (point, value). Numbers lie on a linear axis, or on a logarithmic one if all are above 0 and the largest is
    50 times the smallest; other values have names. A key that a point lacks, and a value that is not finite, lie at
    "none" below the axis. Empty without trials or keys.
    """
    keys = list(dict.fromkeys(key for point, _ in trials for key in point))
    if not keys:
        return ""
    gap = min(SPACES[1], max(SPACES[0], (WIDTH - LEFT - RIGHT) / len(keys)))
    coordinates = [_coordinate(key, [point[key] for point, _ in trials if key in point]) for key in keys]
    finite = [float(value) for _, value in trials if math.isfinite(value)]
    coordinates.append(_numeric(metric, finite))
    colours = _Colours(finite, higher=higher)
    parts = _strip(LEFT + gap * len(keys), finite, colours)
    lines = []
    for point, value in _worst_first(trials, higher=higher):
        places = [point.get(key, _NOTHING) for key in keys]
        lines.append(
            [coordinate(place) for coordinate, place in zip(coordinates, [*places, float(value)], strict=True)]
        )
        is_best = len(lines) == len(trials) and math.isfinite(value)
        title = f"{metric} {short(value)}: {point_text(point)}"
        parts.append(_line(lines[-1], gap, title, BEST if is_best else colours(value), best=is_best))
    for number, (coordinate, pixels) in enumerate(zip(coordinates, zip(*lines, strict=True), strict=True)):
        parts += _draw(coordinate, LEFT + gap * number, gap, none=None in pixels)
    return as_svg(parts, round(LEFT + gap * len(keys) + RIGHT), LOWEST + BOTTOM)


_NOTHING = object()


def _worst_first(trials: Sequence[tuple[dict[str, Any], float]], *, higher: bool) -> list[tuple[dict[str, Any], float]]:
    def key(trial: tuple[dict[str, Any], float]) -> tuple[bool, float]:
        value = trial[1] if higher else -trial[1]
        return (True, value) if math.isfinite(value) else (False, 0.0)

    return sorted(trials, key=key)


def _coordinate(name: str, values: Sequence[Any]) -> _Coordinate:
    if all(_is_number(value) for value in values):
        return _numeric(name, [value for value in values if math.isfinite(value)])
    texts = {repr(value): value_text(value) for value in sorted(values, key=_order)}
    first, last = LOWEST - CATEGORY_MARGIN, TOP + CATEGORY_MARGIN
    step = (last - first) / max(1, len(texts) - 1)
    start = first if len(texts) > 1 else (first + last) / 2
    places = {key: start + number * step for number, key in enumerate(texts)}
    return _Coordinate(name, places, [(places[key], text) for key, text in texts.items()])


def _numeric(name: str, values: Sequence[float]) -> _Coordinate:
    axis: Axis = scaled(values, LOWEST, TOP, gap=TICK_ROOM)
    places = {repr(value): axis(value) for value in values}
    distinct = sorted(set(values))
    pixels = [axis(value) for value in distinct]
    apart = all(a - b >= TICK_ROOM for a, b in pairwise(pixels))
    ticks = distinct if distinct and len(distinct) <= TICKS and apart else axis.ticks
    return _Coordinate(name, places, [(axis(tick), value_text(tick)) for tick in ticks])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _order(value: Any) -> tuple[bool, float, str]:
    """Numbers by size, then names."""
    return (False, float(value), "") if _is_number(value) else (True, 0.0, value_text(value))


class _Colours:
    """From the worst to the best value; faint for one that is not finite."""

    def __init__(self, finite: Sequence[float], *, higher: bool) -> None:
        self._worst, self._best = (min(finite), max(finite)) if finite else (0.0, 0.0)
        if not higher:
            self._worst, self._best = self._best, self._worst

    def __call__(self, value: float) -> str:
        if not math.isfinite(value):
            return FAINT
        width = self._best - self._worst
        return _mixed((value - self._worst) / width if width else 1.0)


def _mixed(share: float) -> str:
    return "#" + "".join(f"{round(cold + share * (warm - cold)):02x}" for cold, warm in zip(COLD, WARM, strict=True))


def _strip(x: float, finite: Sequence[float], colours: _Colours) -> list[str]:
    """The colours along the axis of the metric, from the lowest value to the highest."""
    if not finite:
        return []
    axis, low, high = scaled(finite, LOWEST, TOP), min(finite), max(finite)
    edges = [low + (high - low) * number / STRIP for number in range(STRIP + 1)]
    return [
        f'<rect x="{x - 4:.1f}" y="{axis(above):.1f}" width="8" height="{axis(below) - axis(above) + 0.3:.1f}" '
        f'fill="{colours((below + above) / 2)}"/>'
        for below, above in pairwise(edges)
    ]


def _line(heights: Sequence[float | None], gap: float, title: str, colour: str, *, best: bool) -> str:
    places = [f"{LEFT + gap * number:.1f} {NONE if y is None else y:.1f}" for number, y in enumerate(heights)]
    style = 'class="best" stroke-width="3.2"' if best else 'stroke-width="1.5" stroke-opacity=".8"'
    dashed = ' stroke-dasharray="3 3"' if heights[-1] is None else ""
    tooltip = f"<title>{escape(title)}</title>"
    return f'<path d="M{"L".join(places)}" fill="none" stroke="{colour}" {style}{dashed}>{tooltip}</path>'


def _draw(coordinate: _Coordinate, x: float, gap: float, *, none: bool) -> list[str]:
    """The axis with its name, split at the last dot, its ticks, and the place of points without a value."""
    group, _, key = coordinate.name.rpartition(".")
    room = int((gap - 8) / BOLD_LETTER)
    names = "".join(
        f'<text x="{x:.1f}" y="{y}" text-anchor="middle"{style}>{shortened_front(text, room)}</text>'
        for text, y, style in ((group, 14, ' fill-opacity=".7"'), (key, 28, ' font-weight="600"'))
    )
    parts = [f"<g><title>{escape(coordinate.name)}</title>{names}</g>"]
    parts.append(f'<path d="M{x:.1f} {TOP}V{LOWEST}" class="axis"/>')
    marks = [(y, text, "") for y, text in coordinate.ticks]
    if none:
        marks.append((NONE, "none", ' font-style="italic"'))
        parts.append(f'<circle cx="{x:.1f}" cy="{NONE}" r="3" class="axis"/>')
    for y, text, style in marks:
        parts.append(
            f'<path d="M{x - 4:.1f} {y:.1f}h4" class="axis"/><text x="{x - 7:.1f}" y="{y + 4:.1f}" '
            f'text-anchor="end" {HALO}{style}>{shortened_front(text, room - 3)}</text>'
        )
    return parts
