from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pretune.data.sources import read
from pretune.errors import DataError

pytest.importorskip("datasets", reason="the extra `hub` is not installed")

CARD = """\
---
configs:
- config_name: small
  data_files:
  - {split: train, path: train.parquet}
  - {split: dev, path: dev.parquet}
dataset_info:
- config_name: small
  features:
  - {name: sentence, dtype: string}
  - name: label
    dtype:
      class_label:
        names: {'0': bad, '1': good}
---
"""


@pytest.fixture
def copy(tmp_path):
    """A data set as the hub keeps one: Parquet files and a card that names splits and labels."""
    folder = tmp_path / "copy"
    folder.mkdir()
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    for split, texts in {"train": ["one", "two"], "dev": ["three"]}.items():
        pq.write_table(
            pa.table({"sentence": texts, "label": [n % 2 for n in range(len(texts))]}), folder / f"{split}.parquet"
        )
    return folder


@pytest.fixture
def found(tmp_path, copy, ingest_params):
    """A function that reads a place: (split, origin, values) of each record."""

    def records(place):
        params = ingest_params(source=place)
        return [(split, r.origin, r.values) for split, r in read.read(params, lambda path: tmp_path / path)]

    return records


def test_a_local_copy_gives_its_splits_and_label_names(found):
    """`dev` is what we call validation."""
    assert found("hub:./copy?config=small") == [
        ("validation", "copy/dev:1", {"sentence": "three", "label": "bad"}),
        ("train", "copy/train:1", {"sentence": "one", "label": "bad"}),
        ("train", "copy/train:2", {"sentence": "two", "label": "good"}),
    ]


def test_one_split_alone_is_to_be_divided(found):
    """Asked for by name it is no split of ours any more."""
    assert [(split, values["sentence"]) for split, _, values in found("hub:./copy?split=train")] == [
        (None, "one"),
        (None, "two"),
    ]


def test_new_content_under_an_old_name_is_read(found, copy):
    """`datasets` keeps what it has read by path and time: nothing is taken from there."""
    before = (copy / "train.parquet").stat()
    assert len(found("hub:./copy?split=train")) == 2
    pq.write_table(pa.table({"sentence": ["other"], "label": [1]}), copy / "train.parquet")
    import os

    os.utime(copy / "train.parquet", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [values["sentence"] for _, _, values in found("hub:./copy?split=train")] == ["other"]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("hub:./copy?split=trian", r"has no split trian \(did you mean train\?\)"),
        ("hub:./copy?splt=train", r"splt \(did you mean split\?\)"),
        ("hub:./copy?config=large", "large"),
    ],
)
def test_what_is_not_there_is_told(found, place, message):
    """Splits, keys and configurations, with the nearest."""
    with pytest.raises(DataError, match=message):
        found(place)
