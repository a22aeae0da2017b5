"""The plot of values by seed."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

from pretune.studies.strips import strips


def test_each_seed_is_a_dot_and_each_metric_has_its_interval():
    """Two metrics of three seeds: six dots, two intervals; names are escaped."""
    svg = strips({"<f1>": ([0.5, 0.6, 0.7], 0.4, 0.8), "accuracy": ([0.1, 0.2, 0.3], 0.0, 0.4)}, "test rows")
    ET.fromstring(svg)  # noqa: S314 - our own
    assert svg.count("<circle") == 6
    assert svg.count(": mean ") == 2
    assert "<f1>" not in svg


def test_what_is_not_finite_is_left_out():
    """A metric with a seed that has no value has no row, an unknown interval is not drawn; nothing known: no plot."""
    svg = strips({"broken": ([math.nan, 0.5], 0.0, 1.0), "one": ([0.5], math.nan, math.nan)}, "test rows")
    assert "broken" not in svg
    assert svg.count("<circle") == 1
    assert ": mean " not in svg
    assert strips({"broken": ([math.nan], 0.0, 1.0)}, "test rows") == ""
