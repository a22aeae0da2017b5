"""Plots as SVG, to stand in a page: lines, points and tables of shades. No script, no font and no file besides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT = 400, 260  # pixels
LEFT, RIGHT, TOP, BOTTOM = 52, 66, 12, 40  # margins
COLOURS = ("#2563a8", "#c2452d", "#2f8554", "#8a5aa8", "#b07d12", "#3b8ea0", "#a33f6f", "#62656b")
CELL = 26  # pixels of a cell
ASIDE, EDGE, APART = 6, 12, 28  # pixels between intervals, from the ends of an axis to its values, between its marks
DIGITS = 4
LONG = 14  # characters of a name that are shown
PICTURE = 112  # pixels of a side of an image
FAINT = 0.05  # a weight that is not worth a mark


def lines(
    series: Mapping[str, Points],
    *,
    x: str,
    y: str,
    right: Mapping[str, Points] | None = None,
    diagonal: bool = False,
    marks: bool = False,
) -> str:
    """Lines by name over one axis; those of `right` have their own, and are dashed. diagonal: both axes show 0 to 1."""
    given = [points for points in series.values() if points]
    if not given:
        return ""
    whole = [0.0, 1.0] if diagonal else []
    bottom = _Axis([each[0] for points in given for each in points] + whole, LEFT, WIDTH - RIGHT)
    side = _Axis([each[1] for points in given for each in points] + whole, HEIGHT - BOTTOM, TOP)
    parts = [_frame(), *bottom.below(x), *side.beside(y)]
    if diagonal:
        parts.append(_path([(0.0, 0.0), (1.0, 1.0)], bottom, side, "#999", dashes="2 3"))
    legend = []
    for place, (name, points) in enumerate(series.items()):
        colour = COLOURS[place % len(COLOURS)]
        parts.append(_path(points, bottom, side, colour, title=name))
        parts += [_dot(bottom(a), side(b), colour, f"{name}: {_short(a)}, {_short(b)}") for a, b in points if marks]
        legend.append((name, colour))
    if right and any(right.values()):
        other = _Axis([each[1] for points in right.values() for each in points], HEIGHT - BOTTOM, TOP)
        parts += other.beside(next(iter(right)), right=True)
        parts += [_path(points, bottom, other, "#999", dashes="5 3", title=name) for name, points in right.items()]
        legend += [(name, "#999") for name in right]
    return _figure(parts, WIDTH, HEIGHT) + _legend(legend)


def points(found: Points, *, x: str, y: str) -> str:
    """A dot for each row, and the line on which both are equal."""
    values = [each for pair in found for each in pair]
    bottom, side = _Axis(values, LEFT, WIDTH - RIGHT), _Axis(values, HEIGHT - BOTTOM, TOP)
    ends = [(bottom.low, bottom.low), (bottom.high, bottom.high)]
    dots = [_dot(bottom(a), side(b), COLOURS[0], f"{_short(a)}, {_short(b)}") for a, b in found]
    parts = [_frame(), *bottom.below(x), *side.beside(y), _path(ends, bottom, side, "#999", dashes="2 3"), *dots]
    return _figure(parts, WIDTH, HEIGHT)


def intervals(series: Mapping[str, Sequence[tuple[float, Mapping[str, float]]]], *, x: str, y: str) -> str:
    """Lines by name through points that have an interval (value, low, high), over an axis of equal ratios."""
    given = [each for found in series.values() for each in found]
    if not given:
        return ""
    bottom = _Ratios([place for place, _ in given], LEFT, WIDTH - RIGHT)
    ends = [end for _, found in given for end in found.values() if math.isfinite(end)]
    side = _Axis(ends, HEIGHT - BOTTOM, TOP)
    parts = [_frame(), *bottom.below(x), *side.beside(y)]
    legend = []
    for number, (name, found) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        shift = ASIDE * (number - (len(series) - 1) / 2)  # so that no interval hides another
        for place, each in found:
            if math.isfinite(each["low"]) and math.isfinite(each["high"]):
                at, top = bottom(place) + shift, side(each["high"])
                bar = f"M{at:.1f} {top:.1f}V{side(each['low']):.1f}"
                parts.append(f'<path d="{bar}" stroke="{colour}" stroke-width="4" stroke-opacity=".35"/>')
            parts.append(_dot(bottom(place) + shift, side(each["value"]), colour, f"{name}: {_short(each['value'])}"))
        parts.append(_path([(place, each["value"]) for place, each in found], bottom, side, colour, title=name))
        legend.append((name, colour))
    return _figure(parts, WIDTH, HEIGHT) + _legend(legend)


def shades(names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """A confusion matrix (classes, classes): rows are right, columns were said; the shade is the share of the row."""
    size = CELL * len(names)
    left = top = 7 * LONG
    parts = []
    for row, (name, numbers) in enumerate(zip(names, counts, strict=True)):
        total = max(1, sum(numbers))
        y = top + row * CELL
        parts.append(f'<text x="{left - 6}" y="{y + 17}" text-anchor="end">{_name(name)}</text>')
        where = f"{left + row * CELL + 16},{top - 6}"
        parts.append(f'<text transform="translate({where}) rotate(-60)">{_name(name)}</text>')
        for column, number in enumerate(numbers):
            x, share = left + column * CELL, number / total
            title = f"{name} → {names[column]}: {number} of {total}"
            colour = COLOURS[0] if row == column else COLOURS[1]
            parts.append(
                f'<rect x="{x}" y="{y}" width="{CELL - 1}" height="{CELL - 1}" fill="{colour}" '
                f'fill-opacity="{0.04 + 0.9 * share:.3f}"><title>{escape(title)}</title></rect>'
            )
            if number:
                parts.append(f'<text x="{x + CELL / 2 - 0.5}" y="{y + 17}" text-anchor="middle">{number}</text>')
    return _figure(parts, left + size + 40, top + size + 8)


def marked(image: str, weights: Sequence[Sequence[float]]) -> str:
    """The image at an address under its cells; `weights`, from -1 to 1, are for (blue) or against (red) something."""
    cells = [
        f'<rect x="{x}" y="{y}" width="1" height="1" fill="{COLOURS[weight < 0]}" fill-opacity="{abs(weight):.2f}"/>'
        for y, row in enumerate(weights)
        for x, weight in enumerate(row)
        if abs(weight) >= FAINT
    ]
    wide, high = len(weights[0]), len(weights)
    under = f'<image href="{image}" width="{wide}" height="{high}" preserveAspectRatio="none"/>'
    size = f'width="{PICTURE}" height="{PICTURE}"'
    return f'<svg class="seen" viewBox="0 0 {wide} {high}" {size} role="img">{under}{"".join(cells)}</svg>'


class _Axis:
    """From values to pixels, with round numbers to mark."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        known = [each for each in values if math.isfinite(each)] or [0.0]
        low, high = min(known), max(known)
        if low == high:
            low, high = low - 0.5, high + 0.5
        step = 10.0 ** math.floor(math.log10((high - low) / 4))
        step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 5)
        self.low, self.high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        self.start, self.end = start, end
        self.ticks = [self.low + place * step for place in range(round((self.high - self.low) / step) + 1)]

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def below(self, name: str) -> list[str]:
        y = HEIGHT - BOTTOM
        marks = [
            f'<path d="M{self(t):.1f} {y}v4" class="axis"/><text x="{self(t):.1f}" y="{y + 16}" '
            f'text-anchor="middle">{_short(t)}</text>'
            for t in self.ticks
        ]
        middle = (self.start + self.end) / 2
        return [*marks, f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(name)}</text>']

    def beside(self, name: str, *, right: bool = False) -> list[str]:
        x = WIDTH - RIGHT if right else LEFT
        out, anchor, middle = (1, "start", WIDTH - 6) if right else (-1, "end", 12)
        marks = [
            f'<path d="M{x} {self(t):.1f}h{4 * out}" class="axis"/><text x="{x + 7 * out}" y="{self(t) + 4:.1f}" '
            f'text-anchor="{anchor}">{_short(t)}</text>'
            for t in self.ticks
        ]
        height = (self.start + self.end) / 2
        turned = f'transform="translate({middle},{height}) rotate(-90)" text-anchor="middle"'
        return [*marks, f"<text {turned}>{escape(name)}</text>"]


class _Ratios(_Axis):
    """Equal ratios are equally far apart; marked are the values themselves, where there is room."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        low, high = min(values), max(values)
        self._logs = math.log(low), max(math.log(high), math.log(low) + 1e-9)
        self.start, self.end = start + EDGE, end - EDGE
        self.ticks: list[float] = []
        for value in sorted(set(values), reverse=True):
            if not self.ticks or self(self.ticks[-1]) - self(value) > APART:
                self.ticks.append(value)

    def __call__(self, value: float) -> float:
        low, high = self._logs
        return self.start + (math.log(value) - low) / (high - low) * (self.end - self.start)


def _frame() -> str:
    return f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" class="axis"/>'


def _path(found: Points, x: _Axis, y: _Axis, colour: str, *, dashes: str = "", title: str = "") -> str:
    known = [f"{x(a):.1f} {y(b):.1f}" for a, b in found if math.isfinite(a) and math.isfinite(b)]
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    inner = f"<title>{escape(title)}</title>" if title else ""
    return f'<path d="M{"L".join(known)}" fill="none" stroke="{colour}" stroke-width="1.6"{dashed}>{inner}</path>'


def _dot(x: float, y: float, colour: str, title: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"><title>{escape(title)}</title></circle>'


def _legend(entries: list[tuple[str, str]]) -> str:
    if len(entries) < 2:
        return ""
    items = "".join(f'<li><i style="background:{colour}"></i>{escape(name)}</li>' for name, colour in entries)
    return f'<ul class="legend">{items}</ul>'


def _figure(parts: list[str], width: float, height: float) -> str:
    return f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">{"".join(parts)}</svg>'


def _name(text: str) -> str:
    return escape(text if len(text) <= LONG else text[: LONG - 1] + "…")


def _short(number: float) -> str:
    return f"{number:.{DIGITS}g}".replace("e-0", "e-").replace("e+0", "e")
