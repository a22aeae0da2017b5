from __future__ import annotations

import itertools
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.config import overrides
from pretune.studies import dimensions
from pretune.studies.dimensions import Choices, Condition, Range

WHOLE_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    WHOLE_TEXT,
    st.sampled_from(
        ["1", "1e-4", "null", "~", "True", "yes", ".inf", "2020-01-01", "a: b", "# no", "- x", "'", '"', "\\n"]
    ),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WHOLE_TEXT, inner, max_size=3), max_leaves=6
)


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        ("full,lora,head", ("full", "lora", "head")),
        ("full , lora", ("full", "lora")),
        ("[full, lora]", ("full", "lora")),
        ("3", (3,)),
        ("1e-4,2,null,true", (1e-4, 2, None, True)),
        ("'1','a,b',\"c, d\"", ("1", "a,b", "c, d")),
        ("[a, b],[c]", (["a", "b"], ["c"])),
        ("[[a, b], []]", (["a", "b"], [])),
        ("{a: 1, b: [2, 3]},{}", ({"a": 1, "b": [2, 3]}, {})),
        ("''", ("",)),
        ("'1..2','log:x'", ("1..2", "log:x")),
        ("../data,../other", ("../data", "../other")),
        ("it's,that", ("it's", "that")),
        ("'a if b=c'", ("a if b=c",)),
        ("1,true", (1, True)),
    ],
)
def test_a_list_holds_values_of_yaml(spec, values):
    """Commas in brackets and quotes do not separate; each value has the type that YAML gives it."""
    found = dimensions.read(spec)
    assert found == Choices(values)
    assert [type(value) for value in found.values] == [type(value) for value in values]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("1e-5..1e-3", Range(1e-5, 1e-3)),
        ("log:1e-5..1e-3", Range(1e-5, 1e-3, log=True)),
        ("int:2..8", Range(2, 8, integer=True)),
        ("log:int:4..64", Range(4, 64, log=True, integer=True)),
        ("int:log:4..64", Range(4, 64, log=True, integer=True)),
        ("-1..1/3", Range(-1.0, 1.0, points=3)),
        (".5..1.", Range(0.5, 1.0)),
        ("int:1..1e3", Range(1, 1000, integer=True)),
    ],
)
def test_a_range_has_a_kind_and_ends(spec, expected):
    """Ends of a range of whole numbers are whole numbers; all others are floating point."""
    found = dimensions.read(spec)
    assert found == expected
    assert {type(end) for end in found.ends} == {int if expected.integer else float}


@pytest.mark.parametrize(
    ("spec", "points"),
    [
        ("log:1e-5..1e-3/5", (1e-5, 3.16227766017e-05, 1e-4, 3.16227766017e-04, 1e-3)),
        ("0.1..0.3/3", (0.1, 0.2, 0.3)),
        ("int:2..8/2", (2, 8)),
        ("int:2..8/3", (2, 5, 8)),
        ("int:1..3/10", (1, 2, 3)),
        ("log:int:4..64/5", (4, 8, 16, 32, 64)),
    ],
)
def test_points_are_evenly_spaced_and_include_both_ends(spec, points):
    """`/N` is the number of points; whole numbers are rounded, each once."""
    assert dimensions.read(spec).listed == points


@given(st.floats(1e-6, 1e6), st.floats(1.0001, 1e6), st.booleans(), st.integers(2, 40))
def test_points_ascend_within_the_range(low, factor, log, points):
    """No rounding leaves the range or repeats a point."""
    listed = Range(low, low * factor, log, points=points).listed
    assert listed[0] == low
    assert listed[-1] == low * factor
    assert all(a < b for a, b in itertools.pairwise(listed))


@pytest.mark.parametrize(
    ("spec", "condition"),
    [
        ("int:4..64 if adaptation.method=lora,dora", Condition("adaptation.method", ("lora", "dora"))),
        ("4,8 if a.b=1", Condition("a.b", (1,))),
        ("4 if a='x if y'", Condition("a", ("x if y",))),
        ("4 if a=[1, 2],null", Condition("a", ([1, 2], None))),
    ],
)
def test_a_condition_names_another_key_and_its_values(spec, condition):
    """It stands at the end; its values are YAML as well."""
    assert dimensions.read(spec).condition == condition


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("", "a value is missing"),
        ("a,,b", "a value is missing"),
        ("a,", "a value is missing"),
        ("a,a", "`a` stands twice"),
        ("8,8.0", "`8.0` stands twice"),
        ("[]", "it has no values"),
        ("[a", "`[` is not closed"),
        ("a]", "`]` closes nothing"),
        ("{a]", "closes nothing"),
        ("'a", "not valid YAML"),
        ("!!python/name:os.system x", "not valid YAML"),
        ("&a [*a]", "levels"),
        ("2020-01-01", "is a date"),
        ("{1: a}", "keys that are no texts"),
        (".nan", "no finite number"),
        ("1..x", "`x` is no number"),
        ("int:a..b", "`a` is no number; `b` is no number"),
        ("1e999..2e999", "`1e999` is no finite number"),
        ("3..1", "3 is not below 1"),
        ("1..1", "1 is not below 1"),
        ("log:0..1", "numbers above 0"),
        ("int:1.5..3", "`1.5` is no whole number"),
        ("log:log:1..3", "`log:` stands twice"),
        ("1..3/1", "number of points"),
        ("1..3/x", "number of points"),
        ("1..3/", "number of points"),
        ("1..3/99999", "number of points"),
        ("int:3", "write a range as LOW..HIGH"),
        ("log:1..3,4", "`3,4` is no number"),
        ("1..3,5", "`3,5` is no number"),
        ("1,2 if", "write the condition as"),
        ("1,2 if a", "write the condition as"),
        ("1,2 if =3", "write the condition as"),
        ("1,2 if a=", "a value is missing"),
        ("1,2 if a=1,1", "stands twice"),
    ],
)
def test_a_specification_that_cannot_be_read_says_why(spec, reason):
    """The reason names the part that is wrong."""
    with pytest.raises(ValueError, match=re.escape(reason)):
        print(dimensions.read(spec))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("full,lora", Choices(("full", "lora"))),
        (["full", "1..2"], Choices(("full", "1..2"))),
        (3, Choices((3,))),
        (None, Choices((None,))),
        ({"a": 1}, Choices(({"a": 1},))),
        ([[1], [2]], Choices(([1], [2]))),
        ("int:2..8 if a=1", Range(2, 8, integer=True, condition=Condition("a", (1,)))),
    ],
)
def test_a_sweep_file_holds_values_or_specifications(value, expected):
    """A text is a specification, in a list it is a value."""
    assert dimensions.from_value(value) == expected


@given(VALUES)
def test_a_written_value_reads_back_as_itself(value):
    """`--set` gets the same value of the same type."""
    _, found = overrides._parse(f"adaptation.settings.x={dimensions.written(value)}", [])
    assert repr(found) == repr(value)


def test_numbers_that_are_not_finite_are_written_as_yaml():
    """Infinity and NaN have names of their own there."""
    values = [math.inf, -math.inf, math.nan]
    assert [dimensions.written(value) for value in values] == [".inf", "-.inf", ".nan"]


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (8, 8.0, True),
        (1, True, False),
        ([1], [True], False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ("1", 1, False),
    ],
)
def test_values_are_the_same_if_params_yaml_takes_them_so(one, other, equal):
    """Numbers by their value; true and false are no numbers."""
    assert dimensions.same(one, other) is equal


@pytest.mark.parametrize(
    ("spec", "inside", "outside"),
    [
        ("a,1,[2]", ["a", 1, 1.0, [2]], ["b", True, [3], None]),
        ("int:2..8", [2, 8], [1, 9, 2.0, True, "2", None]),
        ("0.5..2", [0.5, 1, 2.0], [0.4, True, "1"]),
        ("log:1e-5..1e-3/3", [1e-5, 1e-4, 1e-3], [2e-4]),
    ],
)
def test_a_dimension_contains_what_it_can_suggest(spec, inside, outside):
    """Values of another type or between points are outside."""
    dimension = dimensions.read(spec)
    assert all(map(dimension.contains, inside))
    assert not any(map(dimension.contains, outside))
