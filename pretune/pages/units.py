"""Numbers as people read them."""

from __future__ import annotations

PREFIXES = ("", "k", "M", "G", "T", "P", "E")


def si(number: float) -> str:
    """Three digits and an SI prefix: 5.8 T."""
    for prefix in PREFIXES:
        if number < 999.5 or prefix == PREFIXES[-1]:
            break
        number /= 1000
    return f"{number:.3g} {prefix}".strip()


def interval(value: float, low: float, high: float, *, sign: bool = False) -> str:
    """A value and its interval, in four digits: 0.62 (0.6 to 0.64). sign: write a plus before positive numbers."""
    digits = "+.4g" if sign else ".4g"
    return f"{value:{digits}} ({low:{digits}} to {high:{digits}})"
