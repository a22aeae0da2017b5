"""A plot of values by seed: a row of dots for each name, with the mean and its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from pretune.evaluation.report.charts import BOTTOM, COLOURS, TOP, WIDTH, Axis, as_svg, draw_dot, short
from pretune.studies.drawing import LETTER, draw_foot, shortened_front

SPACE = 26  # pixels from one row to the next
NAME = 24  # characters
END = 24  # pixels at the right


def strips(rows: Mapping[str, tuple[Sequence[float], float, float]], x: str) -> str:
    """Dots by name, from top to bottom; rows: (values by seed, low, high), the interval of their mean; "" for none.

    An interval that is not finite is not drawn. The axis holds the values, not 0.
    """
    known = {name: row for name, row in rows.items() if row[0] and all(map(math.isfinite, row[0]))}
    if not known:
        return ""
    left = 12 + LETTER * min(NAME, max(len(name) for name in known))
    ends = [end for values, low, high in known.values() for end in (*values, low, high) if math.isfinite(end)]
    axis = Axis(ends, left, WIDTH - END)
    height = TOP + SPACE * len(known)
    parts = [f'<path d="M{left:.1f} {TOP}V{height}H{WIDTH - END}" class="axis"/>']
    for number, (name, row) in enumerate(known.items()):
        parts.append(_strip(axis, TOP + SPACE * (number + 0.5), name, row))
    parts.append(draw_foot(axis, x, height))
    return as_svg(parts, WIDTH, height + BOTTOM)


def _strip(axis: Axis, y: float, name: str, row: tuple[Sequence[float], float, float]) -> str:
    values, low, high = row
    mean = sum(values) / len(values)
    parts = [f'<text x="{axis.start - 6:.1f}" y="{y + 4}" text-anchor="end">{shortened_front(name, NAME)}</text>']
    if math.isfinite(low) and math.isfinite(high):
        bar = f'<path d="M{axis(low):.1f} {y}H{axis(high):.1f}" stroke="{COLOURS[0]}"'
        title = f"<title>{escape(name)}: mean {short(mean)} ({short(low)} to {short(high)})</title>"
        parts.append(f'{bar} stroke-width="6" stroke-opacity=".3">{title}</path>')
    parts.append(f'<path d="M{axis(mean):.1f} {y - 7}v14" stroke="currentColor" stroke-width="1.4"/>')
    parts += [
        draw_dot(axis(value), y, COLOURS[1], f"{name}, seed {number}: {short(value)}")
        for number, value in enumerate(values)
    ]
    return f"<g>{''.join(parts)}</g>"
