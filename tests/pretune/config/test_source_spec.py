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
