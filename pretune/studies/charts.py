"""Plots of sweeps and studies as SVG: history, parallel coordinates, bars, learning curves, quality against cost.

Names in them are escaped, values that are not finite are left out, and a plot without anything to show is "".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from pretune.evaluation.report.charts import (
    BOTTOM,
    COLOURS,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Points,
    as_svg,
    draw_dot,
    draw_frame,
    draw_path,
    intervals,
    short,
)
from pretune.studies.drawing import (
    BEST,
    FAINT,
    HALO,
    LETTER,
    STATES,
    DecadeAxis,
    draw_foot,
    draw_key,
    marker,
    sample,
    shortened_front,
)
from pretune.studies.parallel import parallel_coordinates

__all__ = ["bars", "curves", "history", "lines_log", "parallel_coordinates", "scatter_labelled"]

FLOOR = HEIGHT - BOTTOM  # pixel of the x axis
BAR, BAR_SPACE = 12, 22  # pixels of a bar, and from one to the next
BAR_NAME = 26  # characters
NUMBER = 52  # pixels for a number at the right
NAMED = 12  # lines that have a colour and a name, besides the best
LINES = tuple((colour, dashes) for dashes in ("", "4 2") for colour in (COLOURS[0], *COLOURS[2:]))
LABEL = 20  # characters of a name beside its dot
PLACES = (  # of a name around its dot: x, y, anchor
    (6, 4, "start"), (-6, 4, "end"), (0, -7, "middle"), (0, 15, "middle"), (6, -6, "start"), (-6, -6, "end"),
    (6, 14, "start"), (-6, 14, "end"), (0, -20, "middle"), (0, 28, "middle"),
)  # fmt: skip
Box = tuple[float, float, float, float]  # left, top, right, bottom


def bars(values: Mapping[str, tuple[float, float | None, float | None]], x: str) -> str:
    """Horizontal bars from 0, with their names on the left. values: (value, low, high) by name; no interval if None."""
    ends = [end for estimate in values.values() for end in estimate if end is not None and math.isfinite(end)]
    if not values:
        return ""
    left = 12 + LETTER * min(BAR_NAME, max(len(name) for name in values))
    axis = Axis([0.0, *ends], left, WIDTH - NUMBER)
    height = TOP + BAR_SPACE * len(values)
    parts = [f'<path d="M{axis(0):.1f} {TOP}V{height}" class="axis"/>']
    for number, (name, estimate) in enumerate(values.items()):
        parts.append(_bar(axis, TOP + BAR_SPACE * (number + 0.5), name, estimate))
    parts.append(draw_foot(axis, x, height))
    return as_svg(parts, WIDTH, height + BOTTOM)


def _bar(axis: Axis, y: float, name: str, estimate: tuple[float, float | None, float | None]) -> str:
    value, low, high = estimate
    known = math.isfinite(value)
    interval = "" if low is None or high is None else f" ({short(low)} to {short(high)})"
    parts = [f"<title>{escape(name)}: {short(value)}{interval}</title>"]
    parts.append(
        f'<text x="{axis.start - 6:.1f}" y="{y + 4}" text-anchor="end">{shortened_front(name, BAR_NAME)}</text>'
    )
    if known:
        first, last = sorted((axis(0.0), axis(value)))
        size = f'width="{last - first:.1f}" height="{BAR}"'
        parts.append(f'<rect x="{first:.1f}" y="{y - BAR / 2}" {size} fill="{COLOURS[0]}" fill-opacity=".75"/>')
    if low is not None and high is not None and math.isfinite(low) and math.isfinite(high):
        whisker = f"M{axis(low):.1f} {y - 3}v6m0-3H{axis(high):.1f}m0-3v6"
        parts.append(f'<path d="{whisker}" stroke="currentColor" stroke-width="1.4" fill="none" class="whisker"/>')
    parts.append(f'<text x="{WIDTH - 2}" y="{y + 4}" text-anchor="end">{short(value) if known else "-"}</text>')
    return f"<g>{''.join(parts)}</g>"


def history(trials: Sequence[tuple[int, float, str]], metric: str, higher: bool) -> str:
    """The value of each trial by its number, marked by its state, and the best of the complete ones so far.

    trials: (number, value, state). A trial without a value stands at the foot of the plot.
    """
    if not trials:
        return ""
    bottom = Axis([float(number) for number, _, _ in trials], LEFT, WIDTH - RIGHT)
    bottom.ticks = [float(round(tick)) for tick in bottom.ticks if abs(tick - round(tick)) < 1e-6]
    side = Axis([value for _, value, _ in trials], FLOOR - 14, TOP)
    parts = [draw_frame(), *bottom.draw_below("trial"), *side.draw_beside(metric)]
    parts.append(_best_so_far(sorted(trials), bottom, side, higher=higher))
    for number, value, state in sorted(trials):
        known = math.isfinite(value)
        y, title = (side(value), f": {short(value)}") if known else (FLOOR - 5, "")
        parts.append(marker(state, bottom(number), y, f"trial {number}, {state}{title}"))
    seen = [state for state in STATES if any(state == trial[2] for trial in trials)]
    entries = [(marker(state, 8, 0), state) for state in seen] + [(sample(BEST), "best so far")]
    key, height = draw_key(entries, 4, HEIGHT, WIDTH - 8)
    return as_svg(parts + key, WIDTH, HEIGHT + height)


def _best_so_far(trials: Sequence[tuple[int, float, str]], bottom: Axis, side: Axis, *, higher: bool) -> str:
    places: list[str] = []
    best = math.nan
    for number, value, state in trials:
        if state == "complete" and math.isfinite(value):
            better = not math.isfinite(best) or (value > best if higher else value < best)
            best = value if better else best
            places.append(f"{'H' if places else 'M'}{bottom(number):.1f}{'V' if places else ' '}{side(best):.1f}")
    if not places:
        return ""
    steps = "".join(places) + f"H{bottom(trials[-1][0]):.1f}"
    title = f"<title>best so far: {short(best)}</title>"
    return f'<path d="{steps}" fill="none" stroke="{BEST}" stroke-width="1.6">{title}</path>'


def curves(series: Mapping[str, Points], *, x: str, y: str, best: str) -> str:
    """Lines by name, that of the name `best` drawn last and thicker; the first 12 others have colours and names."""
    finite = {name: [p for p in points if all(map(math.isfinite, p))] for name, points in series.items()}
    drawn = {name: points for name, points in finite.items() if points}
    if not drawn:
        return ""
    bottom = Axis([point[0] for points in drawn.values() for point in points], LEFT, WIDTH - RIGHT)
    side = Axis([point[1] for points in drawn.values() for point in points], FLOOR, TOP)
    parts = [draw_frame(), *bottom.draw_below(x), *side.draw_beside(y)]
    others = [name for name in drawn if name != best]
    styles = dict(zip(others[:NAMED], LINES, strict=False))
    faint = (FAINT, "")
    # The first ones are the better ones: they lie above the others.
    parts += [_curve(drawn[name], bottom, side, name, styles.get(name, faint)) for name in reversed(others)]
    entries = [(sample(colour, dashes=dashes), name) for name, (colour, dashes) in styles.items()]
    if best in drawn:
        line = _curve(drawn[best], bottom, side, best, (BEST, "")).replace('stroke-width="1.6"', 'stroke-width="3"')
        parts.append(f'<g class="best">{line}</g>')
        entries.insert(0, (sample(BEST, width=3), best))
    if len(others) > NAMED:
        entries.append((sample(FAINT), f"{len(others) - NAMED} more"))
    key, height = draw_key(entries, 4, HEIGHT, WIDTH - 8)
    return as_svg(parts + key, WIDTH, HEIGHT + height)


def _curve(points: Points, bottom: Axis, side: Axis, name: str, style: tuple[str, str]) -> str:
    """A line, or a dot for a single point. style: colour and dashes."""
    colour, dashes = style
    if len(points) == 1:
        return draw_dot(bottom(points[0][0]), side(points[0][1]), colour, name)
    return draw_path(points, bottom, side, colour, dashes=dashes, title=name)


def lines_log(series: Mapping[str, Sequence[tuple[float, Mapping[str, float]]]], x: str, y: str) -> str:
    """Lines by name through estimates with their intervals, on a logarithmic x axis with round ticks.

    series: (x, {value, low, high}), from left to right; x is above 0.
    """
    known = {
        name: [(place, estimate) for place, estimate in points if place > 0 and math.isfinite(estimate["value"])]
        for name, points in series.items()
    }
    return intervals({name: points for name, points in known.items() if points}, x=x, y=y, axis=DecadeAxis)


def scatter_labelled(
    points: Sequence[tuple[float, float, str]], x: str, y: str, log_x: bool = False, *, higher: bool = True
) -> str:
    """Dots with their names, and the Pareto front: the points that no other beats in both values.

    points: (x, y, name). A lower x is better; a higher y is, unless `higher` is false. A name without room is in the
    tooltip only; those of the front come first.
    """
    known = [(a, b, name) for a, b, name in points if math.isfinite(a) and math.isfinite(b) and (a > 0 or not log_x)]
    if not known:
        return ""
    places = [point[0] for point in known]
    bottom = (DecadeAxis if log_x else Axis)(places, LEFT, WIDTH - RIGHT)
    side = Axis([point[1] for point in known], FLOOR, TOP)
    front = _front(known, higher=higher)
    parts = [draw_frame(), *bottom.draw_below(x), *side.draw_beside(y)]
    parts.append(_stairs([(bottom(a), side(b)) for a, b, _ in front]))
    ordered = [*front, *(point for point in known if point not in front)]
    dots = [(bottom(a), side(b)) for a, b, _ in ordered]
    for (a, b, name), (left, top) in zip(ordered, dots, strict=True):
        colour = COLOURS[0] if (a, b, name) in front else COLOURS[7]
        parts.append(draw_dot(left, top, colour, f"{name}: {short(a)}, {short(b)}"))
    parts += _labels([name for _, _, name in ordered], dots)
    key, height = draw_key([(sample(COLOURS[0], dashes="3 2"), "Pareto front")], 4, HEIGHT, WIDTH - 8)
    return as_svg(parts + key, WIDTH, HEIGHT + height)


def _front(points: Sequence[tuple[float, float, str]], *, higher: bool) -> list[tuple[float, float, str]]:
    front: list[tuple[float, float, str]] = []
    for point in sorted(points, key=lambda p: (p[0], -p[1] if higher else p[1])):
        if not front or (point[1] > front[-1][1] if higher else point[1] < front[-1][1]):
            front.append(point)
    return front


def _stairs(places: Points) -> str:
    (x, y), *others = places
    steps = f"M{x:.1f} {y:.1f}" + "".join(f"H{a:.1f}V{b:.1f}" for a, b in others)
    style = f'stroke="{COLOURS[0]}" stroke-width="1.2" stroke-dasharray="3 2"'
    return f'<path d="{steps}" fill="none" {style} class="front"><title>Pareto front</title></path>'


def _labels(names: Sequence[str], dots: Sequence[tuple[float, float]]) -> list[str]:
    """The names that find a place without touching another or a dot."""
    taken: list[Box] = [(x - 3, y - 3, x + 3, y + 3) for x, y in dots]
    labels = []
    for name, (x, y) in zip(names, dots, strict=True):
        shown = name if len(name) <= LABEL else name[: LABEL - 1] + "…"
        for right, down, anchor in PLACES:
            box = _box(x + right, y + down, anchor, LETTER * len(shown))
            inside = box[0] > LEFT and box[2] < WIDTH and box[1] > 0 and box[3] < FLOOR
            if inside and not any(_touch(box, other) for other in taken):
                taken.append(box)
                place = f'x="{x + right:.1f}" y="{y + down:.1f}" text-anchor="{anchor}"'
                labels.append(f'<text {place} class="label" {HALO}>{escape(shown)}</text>')
                break
    return labels


def _box(x: float, y: float, anchor: str, width: float) -> Box:
    left = x - width * {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor]
    return left, y - 9, left + width, y + 2


def _touch(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
