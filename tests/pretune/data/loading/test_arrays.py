"""Corpora that are one array."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.data.loading.arrays import Columns, Samples
from pretune.errors import DataError


@given(st.integers(2, 40), st.integers(0, 39), st.integers(0, 9))
def test_every_row_is_in_one_part(rows, held_out, seed):
    """What is kept out of training is as many as asked for, drawn by the seed, and the rest trains."""
    held_out %= rows
    training, validation = Samples(np.arange(rows) * 10).divide(held_out, seed)
    parts = [part.rows(np.arange(len(part))).tolist() for part in (training, validation) if part]
    assert sorted(value for part in parts for value in part) == list(range(0, rows * 10, 10))
    assert (len(validation) if validation else 0) == held_out


def test_keeping_out_all_rows_is_an_error():
    """Nothing would train."""
    with pytest.raises(DataError, match=r"has 3 rows, and pretrain\.validation_rows keeps 3 out"):
        Samples(np.arange(3)).divide(3, 0)


def test_a_corpus_of_another_kind_is_an_error(tmp_path):
    """The file that the objective needs is not there."""
    np.save(tmp_path / "x.npy", np.arange(3))
    assert len(Samples.open(tmp_path / "x.npy")) == 3
    with pytest.raises(DataError, match=r"images\.npy is not in the corpus"):
        Samples.open(tmp_path / "images.npy")


def test_columns_come_back_from_their_folder(tmp_path):
    """Names in their order, as they are."""
    Columns(["Größe", "b"], ["c"]).save_pretrained(tmp_path)
    found = Columns.load(tmp_path)
    assert (found.x, found.y) == (["Größe", "b"], ["c"])
