"""Files, folders and globs on the command line become places of `ingest.source`."""

from __future__ import annotations

import pytest

from pretune.data.inspect import places, proposal
from pretune.errors import DataError


@pytest.fixture
def source(tmp_path):
    """A function that makes empty files and returns `ingest.source` for what is named."""

    def make(*files, named):
        for name in files:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"")
        return proposal.source_of(places.find(tmp_path, tmp_path, [(None, name) for name in named]))

    return make


@pytest.mark.parametrize(
    ("files", "named", "expected"),
    [
        (["a.csv"], ["a.csv"], "a.csv"),
        (["a.csv", "b.csv"], ["a.csv", "b.csv"], ["a.csv", "b.csv"]),
        (["train.csv", "dev.csv"], ["train.csv", "dev.csv"], {"train": "train.csv", "validation": "dev.csv"}),
        (["s/train-00000.parquet", "s/train-00001.parquet", "s/test.parquet"], ["s"],
         {"train": ["s/train-00000.parquet", "s/train-00001.parquet"], "test": "s/test.parquet"}),
        (["p/cat/1.png", "p/dog/2.jpg"], ["p"], "p"),
        (["p/cat/1.png", "p/dog/2.png", "p/README.md", "p/cat/Thumbs.db"], ["p"], "p/**/*.png"),
        (["p/train/cat/1.png", "p/test/cat/2.png"], ["p"], {"train": "p/train", "test": "p/test"}),
        (["p/train/pos/1.txt", "p/train/neg/2.txt"], ["p"], "p/train"),
        (["w/a.txt", "w/b.txt"], ["w/*.txt"], "w/*.txt"),
        (["[2024] a.csv"], ["[2024] a.csv"], "[2024] a.csv"),
        (["m/train-images-idx3-ubyte.gz", "m/train-labels-idx1-ubyte.gz"], ["m"],
         {"train": {"image": "m/train-images-idx3-ubyte.gz", "label": "m/train-labels-idx1-ubyte.gz"}}),
        (["t.en.gz", "t.de.gz"], ["t.en.gz", "t.de.gz"], {"text": "t.en.gz", "target": "t.de.gz"}),
        ([], ["https://example.org/a.csv"], "https://example.org/a.csv"),
        ([], ["hub:team/set@main"], {"type": "hub", "name": "team/set", "revision": "main"}),
        (["copy/a.csv"], ["hub:./copy"], {"type": "hub", "name": "./copy"}),
    ],
)  # fmt: skip
def test_places_and_splits_follow_from_names(source, files, named, expected):
    """A file is a file whatever its name; names of splits count only if `train` is among them."""
    assert source(*files, named=named) == expected


def test_several_kinds_in_a_folder_are_named_with_files_of_each(source):
    """Nothing is chosen for the user."""
    with pytest.raises(DataError, match=r"2 x csv \(a\.csv, b\.csv\); 1 x images \(c\.png\)"):
        source("d/a.csv", "d/b.csv", "d/c.png", named=["d"])
