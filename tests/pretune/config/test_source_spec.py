"""Paths in `ingest.source`: what dvc.yaml has to list of them."""

from __future__ import annotations

import pytest

from pretune.config import source_spec


@pytest.mark.parametrize(
    ("place", "prefix"),
    [
        ("a/b.csv", "a/b.csv"), ("a/b/", "a/b"), ("a/*/c.csv", "a"), ("*.csv", "."), ("a/[bc].csv", "a"),
        ("a/b.zip/c/*.csv", "a/b.zip"), ("a/b.TAR.GZ/c.csv", "a/b.TAR.GZ"), ("a b/#c (é).csv", "a b/#c (é).csv"),
    ],
)  # fmt: skip
def test_the_fixed_part_of_a_place_ends_at_its_pattern_or_archive(place, prefix):
    """A file or a folder, whatever other characters are in its name."""
    assert source_spec.fixed_prefix(place) == prefix


@pytest.mark.parametrize("place", ["[2024]/a.csv", "[2024]/", "what?/*.csv"])
def test_a_path_that_exists_is_listed_as_it_is(tmp_path, place):
    """Folders too; only a path that does not exist is a pattern."""
    (tmp_path / "[2024]").mkdir()
    (tmp_path / "[2024]" / "a.csv").touch()
    expected = "." if "?" in place else place.rstrip("/")
    assert list(source_spec.local_paths([place], tmp_path)) == [expected]


def test_a_mixture_names_parts_with_weights(tmp_path):
    """A part is any source; each of its places is listed, and has the name."""
    source = {"chat": {"path": {"train": "a.jsonl", "test": ["b.jsonl"]}, "weight": 0.7},
              "general": {"path": {"type": "hub", "name": "./copy"}, "weight": 3}}  # fmt: skip
    assert source_spec.weights(source) == {"chat": 0.7, "general": 3.0}
    assert [(part.name, part.split) for part in source_spec.parts(source)] == [
        ("chat", "train"), ("chat", "test"), ("general", None),
    ]  # fmt: skip
    assert list(source_spec.local_paths(source, tmp_path)) == ["a.jsonl", "b.jsonl", "./copy"]
    assert source_spec.weights({"train": "a.jsonl"}) == {}


def test_all_that_is_wrong_in_a_mixture_is_told_at_once():
    """Weights, names, keys, and a mixture in a mixture."""
    good = {"path": "a.csv", "weight": 1}
    mixture = {
        "a": good | {"weight": 0}, "b": good | {"weight": True}, "c": "c.csv", "d": {"path": "a.csv"},
        "test": good, "e f": good, "g": {"path": {"h": good}, "weight": 1}, "i": good,
    }  # fmt: skip
    with pytest.raises(ValueError, match="number above 0") as caught:
        source_spec.parts(mixture)
    problems = str(caught.value).split("; ")
    assert [problem.partition(":")[0] for problem in problems] == ["a", "b", "c", "d", "test", "e f", "g"]


def test_a_temperature_stands_in_place_of_weights(tmp_path):
    """It is beside the parts, and no part or place."""
    source = {"temperature": 2, "chat": {"path": "a.jsonl"}, "general": {"path": {"corpus": "b.txt"}}}
    assert source_spec.temperature(source) == 2.0
    assert list(source_spec.weights(source)) == ["chat", "general"]
    assert source_spec.for_pretraining(source) == ["general"]
    assert list(source_spec.local_paths(source, tmp_path)) == ["a.jsonl", "b.txt"]
    assert source_spec.temperature({"chat": {"path": "a.jsonl", "weight": 1}}) is None
    assert source_spec.temperature({"train": "a.jsonl"}) is None


@pytest.mark.parametrize("value", [0.5, True, "2", float("inf"), None, {"path": "a.csv"}])
def test_a_temperature_excludes_weights(value):
    """Each part with a weight is told, beside a temperature that is none."""
    source = {"temperature": value, "a": {"path": "a.csv", "weight": 1}, "b": {"path": "b.csv"}, "c": "c.csv"}
    with pytest.raises(ValueError, match="a number of 1 or more") as caught:
        source_spec.parts(source)
    problems = str(caught.value).split("; ")
    assert [problem.partition(":")[0] for problem in problems] == ["temperature", "a", "c"]
    assert "{path: source} where the mixture has a temperature, got {'path': 'a.csv', 'weight': 1}" in problems[1]
