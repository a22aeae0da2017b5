from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.data.prepare.mixing import Mixing

SIZES = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 10**9), min_size=1)


def shares(sizes, temperature):
    """{part: its share of the draws}."""
    weights = Mixing(dict.fromkeys(sizes, 0.0), temperature).weights(sizes)
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


@given(SIZES, st.floats(1, 100), st.floats(1, 100))
def test_a_higher_temperature_draws_from_parts_more_equally(sizes, one, other):
    """At 1 in proportion to their sizes, and never less from a larger part."""
    assert shares(sizes, 1.0) == pytest.approx({name: size / sum(sizes.values()) for name, size in sizes.items()})
    low, high = (shares(sizes, temperature) for temperature in sorted((one, other)))
    smallest, largest = (choose(sizes, key=sizes.__getitem__) for choose in (min, max))
    assert low[smallest] <= high[smallest] * (1 + 1e-9)
    assert high[largest] <= low[largest] * (1 + 1e-9)
    assert high[smallest] <= high[largest] * (1 + 1e-9)


def test_given_weights_do_not_depend_on_sizes():
    """Without a temperature; of some parts only, in the order of the source."""
    mixing = Mixing.of({"weights": {"b": 3.0, "a": 1.0, "c": 2.0}})
    assert list(mixing.only({"c", "b"}).weights({"b": 1}).items()) == [("b", 3.0), ("c", 2.0)]
    assert Mixing.of({}).weights({"b": 1}) == {}
