"""A corpus of images or numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.data.loading.arrays import Columns, Samples
from pretune.errors import DataError


@given(st.integers(2, 40), st.integers(0, 39), st.integers(0, 9))
def test_every_row_is_in_one_part(rows, held_out, seed):
    """The requested number of rows is held out, drawn by the seed, and all other rows train."""
    held_out %= rows
    training, validation = Samples(np.arange(rows) * 10).divide(held_out, seed)
    parts = [part.rows(np.arange(len(part))).tolist() for part in (training, validation) if part]
    assert sorted(value for part in parts for value in part) == list(range(0, rows * 10, 10))
    assert (len(validation) if validation else 0) == held_out


def test_holding_out_all_rows_is_an_error():
    """No row would be left to train on."""
    with pytest.raises(DataError, match=r"has 3 rows, and pretrain\.validation_rows holds out 3"):
        Samples(np.arange(3)).divide(3, 0)


def test_a_corpus_of_another_kind_is_an_error(tmp_path):
    """The file that the objective needs is missing."""
    np.save(tmp_path / "x.npy", np.arange(3))
    assert len(Samples.open(tmp_path / "x.npy")) == 3
    with pytest.raises(DataError, match=r"images\.npy is not in the corpus"):
        Samples.open(tmp_path / "images.npy")


def test_columns_come_back_from_their_folder(tmp_path):
    """The names and their order are restored."""
    Columns(["Größe", "b"], ["c"]).save_pretrained(tmp_path)
    columns = Columns.load(tmp_path)
    assert (columns.x, columns.y) == (["Größe", "b"], ["c"])
