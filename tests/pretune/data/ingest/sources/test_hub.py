from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from PIL import Image

from pretune.data.ingest.sources import hub, read
from pretune.errors import DataError

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
    """A data set as on the hub: Parquet files, and a card that names splits and labels."""
    folder = tmp_path / "copy"
    folder.mkdir()
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    for split, texts in {"train": ["one", "two"], "dev": ["three"]}.items():
        pq.write_table(
            pa.table({"sentence": texts, "label": [n % 2 for n in range(len(texts))]}), folder / f"{split}.parquet"
        )
    return folder


@pytest.fixture
def records(tmp_path, copy, ingest_params):
    """A function that reads the copy: (split, origin, values) of each record."""

    def read_copy(**more):
        params = ingest_params(source={"type": "hub", "name": "./copy"} | more)
        return [(split, r.origin, r.values) for split, r in read.read(params, lambda path: tmp_path / path)]

    return read_copy


def test_a_local_copy_has_its_splits_and_label_names(records):
    """`dev` becomes validation."""
    assert records(config="small") == [
        ("validation", "copy/dev:1", {"sentence": "three", "label": "bad"}),
        ("train", "copy/train:1", {"sentence": "one", "label": "bad"}),
        ("train", "copy/train:2", {"sentence": "two", "label": "good"}),
    ]


def test_a_split_that_is_named_can_be_divided(records):
    """Its rows have no split of their own."""
    assert [(split, values["sentence"]) for split, _, values in records(split="train")] == [
        (None, "one"),
        (None, "two"),
    ]


def test_new_content_of_an_old_file_is_read(records, copy):
    """The cache of `datasets`, by path and time, is not used."""
    before = (copy / "train.parquet").stat()
    assert len(records(split="train")) == 2
    pq.write_table(pa.table({"sentence": ["other"], "label": [1]}), copy / "train.parquet")
    os.utime(copy / "train.parquet", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [values["sentence"] for _, _, values in records(split="train")] == ["other"]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"split": "trian"}, r"has no split trian \(did you mean train\?\)"), ({"config": "large"}, "large")],
)
def test_an_unknown_split_or_configuration_is_an_error(records, options, message):
    """The message suggests the nearest split."""
    with pytest.raises(DataError, match=message):
        records(**options)


@pytest.fixture
def saved(copy):
    """A function that writes a data set by `save_to_disk` in the place of the copy."""
    shutil.rmtree(copy)
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["bad", "good"])})

    def save(**splits):
        parts = {
            split: Dataset.from_dict({"sentence": texts, "label": [1] * len(texts)}, features=features)
            for split, texts in splits.items()
        }
        (parts.get("alone") or DatasetDict(parts)).save_to_disk(copy)
        return copy

    return save


def test_a_copy_with_images_in_files_has_them_and_their_labels(records, copy):
    """Images that `datasets` finds in folders."""
    shutil.rmtree(copy)
    for name in ("cat", "dog"):
        (copy / name).mkdir(parents=True)
        Image.new("L", (1, 1)).save(copy / name / "1.png")
    png = (copy / "cat/1.png").read_bytes()
    assert [(row["image"]["bytes"], row["label"]) for _, _, row in records()] == [(png, "cat"), (png, "dog")]


def test_a_saved_data_set_has_its_splits_and_label_names(records, saved):
    """A DatasetDict."""
    assert hub.is_saved(saved(train=["one", "two"], dev=["three"]))
    assert records() == [
        ("validation", "copy/dev:1", {"sentence": "three", "label": "good"}),
        ("train", "copy/train:1", {"sentence": "one", "label": "good"}),
        ("train", "copy/train:2", {"sentence": "two", "label": "good"}),
    ]
    assert [split for split, _, _ in records(split="train")] == [None, None]


def test_a_saved_data_set_is_named_like_any_folder(saved, ingest_params):
    """Its path alone is enough; its metadata are no tables."""
    folder = saved(train=["one"], dev=["three"])
    found = list(read.read(ingest_params(source="copy"), lambda place: folder.parent / place))
    assert [split for split, _ in found] == ["validation", "train"]
    assert [record.values["sentence"] for _, record in found] == ["three", "one"]


def test_a_data_set_that_was_saved_alone_can_be_divided(records, saved):
    """A Dataset has no splits, and no configurations."""
    assert hub.is_saved(saved(alone=["one"]))
    assert records() == [(None, "copy:1", {"sentence": "one", "label": "good"})]
    with pytest.raises(DataError, match="has no config"):
        records(config="small")


def test_a_copy_is_not_a_saved_data_set(copy):
    """Its files are read by their formats."""
    assert not hub.is_saved(copy)


@pytest.mark.parametrize("is_copy", [False, True])
def test_a_saved_data_set_that_is_truncated_is_an_error(records, saved, is_copy):
    """`datasets` would return the rows that are left, whether it knows the folder as saved or finds files in it."""
    folder = saved(train=["one", "two"])
    path = next(folder.rglob("*.arrow"))
    path.write_bytes(path.read_bytes()[:-8])
    for description in folder.rglob("*.json") if is_copy else []:
        description.unlink()
    with pytest.raises(DataError, match="the end-of-stream marker is missing"):
        records()


def test_reading_writes_nothing_into_the_cache(records, monkeypatch, tmp_path):
    """Not even locks."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    assert len(records(split="train")) == 2
    assert not (tmp_path / "cache").exists()


COMMIT = "0123456789" * 4
READ = """
import json, sys
from pretune.config.source_spec import HubDataset
from pretune.data.ingest.sources import hub
from pretune.errors import DataError
try:
    dataset = HubDataset(**json.loads(sys.argv[1]))
    print(json.dumps([[split, r.values] for split, records in hub.read(dataset, None) for r in records()]))
except DataError as error:
    print(json.dumps(str(error)))
"""


class Hub(http.server.SimpleHTTPRequestHandler):
    """The answers of the hub about the data set team/reviews at one commit: its files, their list, ranges of them."""

    def __init__(self, *arguments, folder, **more):
        self.copy = folder
        super().__init__(*arguments, **more)

    def do_GET(self):
        api, files = "/api/datasets/team/reviews", f"/datasets/team/reviews/resolve/{COMMIT}/"
        path = self.path.partition("?")[0]
        listing = [{"type": "file", "path": p.name, "size": p.stat().st_size, "oid": "0"} for p in self.copy.iterdir()]
        if path == f"{api}/revision/{COMMIT}":
            self.answer(json.dumps({"id": "team/reviews", "sha": COMMIT, "siblings": []}).encode())
        elif path == f"{api}/tree/{COMMIT}":
            self.answer(json.dumps(listing).encode())
        elif path.startswith(files) and (self.copy / path.removeprefix(files)).is_file():
            self.answer((self.copy / path.removeprefix(files)).read_bytes())
        else:
            self.send_error(404)

    do_HEAD = do_GET  # noqa: N815 - called so by http.server

    def answer(self, content):
        size = len(content)
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        content = content[int(first) : int(last or size) + 1]
        self.send_response(206 if "Range" in self.headers else 200)
        for name, value in {
            "Content-Length": str(len(content)), "X-Repo-Commit": COMMIT, "ETag": '"1"', "Accept-Ranges": "bytes",
            "Content-Range": f"bytes {first}-{int(first) + len(content) - 1}/{size}",
        }.items():  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        """Print nothing."""


@pytest.fixture
def from_hub(copy, tmp_path):
    """A function that reads a data set in another process, for which this machine is the hub."""

    def handler(*arguments, **more):
        return Hub(*arguments, folder=copy, **more)

    def read_dataset(**dataset):
        own = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "home")}
        environment = os.environ | own | {"NO_PROXY": "127.0.0.1", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", READ, json.dumps(dataset)],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        return json.loads(done.stdout)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield read_dataset
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_a_data_set_is_read_from_a_hub_at_its_commit(from_hub):
    """The same rows as from a copy, although stages are offline otherwise."""
    assert from_hub(name="team/reviews", config="small", revision=COMMIT) == [
        ["validation", {"sentence": "three", "label": "bad"}],
        ["train", {"sentence": "one", "label": "bad"}],
        ["train", {"sentence": "two", "label": "good"}],
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "revision"), [("none", COMMIT), ("reviews", COMMIT[::-1])])
def test_a_data_set_or_commit_that_the_hub_lacks_is_an_error(from_hub, name, revision):
    """The message names the data set."""
    answer = from_hub(name=f"team/{name}", revision=revision)
    assert answer.startswith(f"ingest.source: hub data set team/{name}: Couldn't find")
