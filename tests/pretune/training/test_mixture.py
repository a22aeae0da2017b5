from __future__ import annotations

import pytest

from pretune.errors import DataError
from pretune.training import mixture


class Words:
    """An objective with a sample for each word of a row."""

    def __init__(self, rows, context):
        self.samples = [word for row in rows for word in row["text"].split()]

    def __len__(self):
        return len(self.samples)


def test_a_part_has_the_samples_of_its_rows():
    """A row may have several samples; a part without any is an error, and a source without parts is no mixture."""
    rows = [{"text": "a b", "part": "x"}, {"text": "c", "part": "x"}, {"text": "d e f", "part": "y"}]
    made = mixture.of(rows, {"x": 1.0, "y": 2.0}, Words(rows, None), None)
    assert (made.sizes, made.draws()) == ({"x": 3, "y": 3}, {"x": 2, "y": 4})
    assert mixture.of(rows, {}, Words(rows, None), None) is None
    with pytest.raises(DataError, match=r"ingest.source.z: no row of this part is left"):
        mixture.of(rows, {"x": 1.0, "y": 2.0, "z": 1.0}, Words(rows, None), None)
