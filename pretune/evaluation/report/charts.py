"""Plots as SVG for HTML pages: lines, scatter plots, intervals and confusion matrices. Names in them are escaped."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT = 400, 260  # pixels
LEFT, RIGHT, TOP, BOTTOM = 52, 66, 12, 40  # margins
COLOURS = ("#2563a8", "#c2452d", "#2f8554", "#8a5aa8", "#b07d12", "#3b8ea0", "#a33f6f", "#62656b")
CELL = 26  # pixels of a cell
INTERVAL_SHIFT = 6  # pixels between the intervals of two lines at the same place
LOG_MARGIN, LOG_TICK_GAP = 12, 28  # pixels from the ends of a logarithmic axis to its values, and between its ticks
DIGITS = 4
NAME_LENGTH = 14  # characters
IMAGE_SIZE = 112  # pixels per side
FAINT = 0.05  # weights below are not drawn


def lines(
    series: Mapping[str, Points],
    *,
    x: str,
    y: str,
    right: Mapping[str, Points] | None = None,
    diagonal: bool = False,
    marks: bool = False,
) -> str:
    """Lines by name. right: dashed lines with an axis of their own; diagonal: draw it, and show 0 to 1 on both axes."""
    drawn = [points for points in series.values() if points]
    if not drawn:
        return ""
    limits = [0.0, 1.0] if diagonal else []
    bottom = Axis([point[0] for points in drawn for point in points] + limits, LEFT, WIDTH - RIGHT)
    side = Axis([point[1] for points in drawn for point in points] + limits, HEIGHT - BOTTOM, TOP)
    parts = [draw_frame(), *bottom.draw_below(x), *side.draw_beside(y)]
    if diagonal:
        parts.append(draw_path([(0.0, 0.0), (1.0, 1.0)], bottom, side, "#999", dashes="2 3"))
    entries = []
    for number, (name, points) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        parts.append(draw_path(points, bottom, side, colour, title=name))
        parts += [draw_dot(bottom(a), side(b), colour, f"{name}: {short(a)}, {short(b)}") for a, b in points if marks]
        entries.append((name, colour))
    if right and any(right.values()):
        other = Axis([point[1] for points in right.values() for point in points], HEIGHT - BOTTOM, TOP)
        parts += other.draw_beside(next(iter(right)), right=True)
        parts += [draw_path(points, bottom, other, "#999", dashes="5 3", title=name) for name, points in right.items()]
        entries += [(name, "#999") for name in right]
    return as_svg(parts, WIDTH, HEIGHT) + draw_legend(entries)


def scatter(points: Points, *, x: str, y: str) -> str:
    """A dot for each row, and the line on which both values are equal."""
    values = [value for point in points for value in point]
    bottom, side = Axis(values, LEFT, WIDTH - RIGHT), Axis(values, HEIGHT - BOTTOM, TOP)
    ends = [(bottom.low, bottom.low), (bottom.high, bottom.high)]
    dots = [draw_dot(bottom(a), side(b), COLOURS[0], f"{short(a)}, {short(b)}") for a, b in points]
    diagonal = draw_path(ends, bottom, side, "#999", dashes="2 3")
    return as_svg([draw_frame(), *bottom.draw_below(x), *side.draw_beside(y), diagonal, *dots], WIDTH, HEIGHT)


def intervals(
    series: Mapping[str, Sequence[tuple[float, Mapping[str, float]]]],
    *,
    x: str,
    y: str,
    axis: Callable[[Sequence[float], float, float], Axis] | None = None,
) -> str:
    """Lines by name through estimates (value, low, high), with their intervals. axis: of x; logarithmic by default."""
    estimates = [point for points in series.values() for point in points]
    if not estimates:
        return ""
    bottom = (axis or LogAxis)([place for place, _ in estimates], LEFT, WIDTH - RIGHT)
    ends = [end for _, estimate in estimates for end in estimate.values() if math.isfinite(end)]
    side = Axis(ends, HEIGHT - BOTTOM, TOP)
    parts = [draw_frame(), *bottom.draw_below(x), *side.draw_beside(y)]
    entries = []
    for number, (name, points) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        shift = INTERVAL_SHIFT * (number - (len(series) - 1) / 2)  # so that no interval hides another
        for place, estimate in points:
            middle, value = bottom(place) + shift, estimate["value"]
            if math.isfinite(estimate["low"]) and math.isfinite(estimate["high"]):
                bar = f"M{middle:.1f} {side(estimate['high']):.1f}V{side(estimate['low']):.1f}"
                parts.append(f'<path d="{bar}" stroke="{colour}" stroke-width="4" stroke-opacity=".35"/>')
            parts.append(draw_dot(middle, side(value), colour, f"{name}: {short(value)}"))
        line = [(place, estimate["value"]) for place, estimate in points]
        parts.append(draw_path(line, bottom, side, colour, title=name))
        entries.append((name, colour))
    return as_svg(parts, WIDTH, HEIGHT) + draw_legend(entries)


def confusion_matrix(names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Counts (classes, classes): rows are true, columns are predicted classes; shades are shares of the row."""
    size = CELL * len(names)
    left = top = 7 * NAME_LENGTH
    parts = []
    for row, (name, numbers) in enumerate(zip(names, counts, strict=True)):
        total = max(1, sum(numbers))
        y = top + row * CELL
        parts.append(f'<text x="{left - 6}" y="{y + 17}" text-anchor="end">{shortened(name)}</text>')
        origin = f"{left + row * CELL + 16},{top - 6}"
        parts.append(f'<text transform="translate({origin}) rotate(-60)">{shortened(name)}</text>')
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
    return as_svg(parts, left + size + 40, top + size + 8)


def attributed_image(url: str, weights: Sequence[Sequence[float]]) -> str:
    """An image under its cells. weights: -1 to 1, positive ones blue and negative ones red."""
    cells = [
        f'<rect x="{x}" y="{y}" width="1" height="1" fill="{COLOURS[weight < 0]}" fill-opacity="{abs(weight):.2f}"/>'
        for y, row in enumerate(weights)
        for x, weight in enumerate(row)
        if abs(weight) >= FAINT
    ]
    width, height = len(weights[0]), len(weights)
    image = f'<image href="{url}" width="{width}" height="{height}" preserveAspectRatio="none"/>'
    size = f'width="{IMAGE_SIZE}" height="{IMAGE_SIZE}"'
    return f'<svg class="image" viewBox="0 0 {width} {height}" {size} role="img">{image}{"".join(cells)}</svg>'


class Axis:
    """Maps values to pixels; ticks are at round numbers."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        finite = [value for value in values if math.isfinite(value)] or [0.0]
        low, high = min(finite), max(finite)
        if low == high:
            low, high = low - 0.5, high + 0.5
        step = 10.0 ** math.floor(math.log10((high - low) / 4))
        step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 5)
        self.low, self.high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        self.start, self.end = start, end
        self.ticks = [self.low + number * step for number in range(round((self.high - self.low) / step) + 1)]

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def draw_below(self, name: str) -> list[str]:
        """Ticks and the name below a plot."""
        y = HEIGHT - BOTTOM
        ticks = [
            f'<path d="M{self(t):.1f} {y}v4" class="axis"/><text x="{self(t):.1f}" y="{y + 16}" '
            f'text-anchor="middle">{short(t)}</text>'
            for t in self.ticks
        ]
        middle = (self.start + self.end) / 2
        return [*ticks, f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(name)}</text>']

    def draw_beside(self, name: str, *, right: bool = False) -> list[str]:
        """Ticks and the name on the left or right of a plot."""
        x = WIDTH - RIGHT if right else LEFT
        outward, anchor, name_x = (1, "start", WIDTH - 6) if right else (-1, "end", 12)
        ticks = [
            f'<path d="M{x} {self(t):.1f}h{4 * outward}" class="axis"/><text x="{x + 7 * outward}" '
            f'y="{self(t) + 4:.1f}" text-anchor="{anchor}">{short(t)}</text>'
            for t in self.ticks
        ]
        middle = (self.start + self.end) / 2
        rotated = f'transform="translate({name_x},{middle}) rotate(-90)" text-anchor="middle"'
        return [*ticks, f"<text {rotated}>{escape(name)}</text>"]


class LogAxis(Axis):
    """A logarithmic axis; ticks are at the values themselves, where there is room."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        low, high = min(values), max(values)
        self._logs = math.log(low), max(math.log(high), math.log(low) + 1e-9)
        self.start, self.end = start + LOG_MARGIN, end - LOG_MARGIN
        self.ticks: list[float] = []
        for value in sorted(set(values), reverse=True):
            if not self.ticks or self(self.ticks[-1]) - self(value) > LOG_TICK_GAP:
                self.ticks.append(value)

    def __call__(self, value: float) -> float:
        """The pixel of a value above 0."""
        low, high = self._logs
        return self.start + (math.log(value) - low) / (high - low) * (self.end - self.start)


def draw_frame() -> str:
    """The left and the lower line of a plot."""
    return f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" class="axis"/>'


def draw_path(points: Points, x: Axis, y: Axis, colour: str, *, dashes: str = "", title: str = "") -> str:
    """A line through the points that are finite, with a tooltip."""
    finite = [f"{x(a):.1f} {y(b):.1f}" for a, b in points if math.isfinite(a) and math.isfinite(b)]
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    tooltip = f"<title>{escape(title)}</title>" if title else ""
    return f'<path d="M{"L".join(finite)}" fill="none" stroke="{colour}" stroke-width="1.6"{dashed}>{tooltip}</path>'


def draw_dot(x: float, y: float, colour: str, title: str) -> str:
    """A dot at a place in pixels, with a tooltip."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"><title>{escape(title)}</title></circle>'


def draw_legend(entries: list[tuple[str, str]]) -> str:
    """Names and colours below a plot, as an HTML list; nothing for less than two."""
    if len(entries) < 2:
        return ""
    items = "".join(f'<li><i style="background:{colour}"></i>{escape(name)}</li>' for name, colour in entries)
    return f'<ul class="legend">{items}</ul>'


def as_svg(parts: list[str], width: float, height: float) -> str:
    """The picture that the parts make, in pixels."""
    return f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">{"".join(parts)}</svg>'


def shortened(name: str) -> str:
    """A name of at most 14 characters, escaped."""
    return escape(name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…")


def short(number: float) -> str:
    """A number in four digits: 0.25, 1e-5."""
    return f"{number:.{DIGITS}g}".replace("e-0", "e-").replace("e+0", "e")
