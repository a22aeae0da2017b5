from __future__ import annotations

import pytest

from pretune.pages.units import interval, si


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (7, "7"), (999, "999"), (1000, "1 k"), (5795100000000, "5.8 T"), (1e24, "1e+06 E"), (999_999, "1 M")],
)
def test_large_numbers_have_prefixes(number, text):
    """Three digits, and never a thousand of a unit with a larger prefix."""
    assert si(number) == text


def test_an_interval_follows_its_value():
    """Four digits, with a sign if asked for."""
    assert interval(0.622041, 0.6005, 0.643) == "0.622 (0.6005 to 0.643)"
    assert interval(0.131, -0.02, 0.156, sign=True) == "+0.131 (-0.02 to +0.156)"
