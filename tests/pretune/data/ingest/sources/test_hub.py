from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pretune.data.ingest.sources import read
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


COMMIT = "0123456789" * 4
READ = """
import json, sys
from pretune.data.ingest.sources import hub
from pretune.errors import DataError
try:
    print(json.dumps([[split, r.values] for split, records in hub.read(sys.argv[1], None) for r in records()]))
except DataError as error:
    print(json.dumps(str(error)))
"""


class Hub(http.server.SimpleHTTPRequestHandler):
    """What the hub answers about the data set team/reviews at one commit: its files, their list, parts of them."""

    def __init__(self, *arguments, folder, **more):
        self.copy = folder
        super().__init__(*arguments, **more)

    def do_GET(self):
        api, files = "/api/datasets/team/reviews", f"/datasets/team/reviews/resolve/{COMMIT}/"
        path = self.path.partition("?")[0]
        listed = [{"type": "file", "path": p.name, "size": p.stat().st_size, "oid": "0"} for p in self.copy.iterdir()]
        if path == f"{api}/revision/{COMMIT}":
            self.answer(json.dumps({"id": "team/reviews", "sha": COMMIT, "siblings": []}).encode())
        elif path == f"{api}/tree/{COMMIT}":
            self.answer(json.dumps(listed).encode())
        elif path.startswith(files) and (self.copy / path.removeprefix(files)).is_file():
            self.answer((self.copy / path.removeprefix(files)).read_bytes())
        else:
            self.send_error(404)

    do_HEAD = do_GET  # noqa: N815 - called so by http.server

    def answer(self, content):
        whole = len(content)
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        content = content[int(first) : int(last or whole) + 1]
        self.send_response(206 if "Range" in self.headers else 200)
        for name, value in {
            "Content-Length": str(len(content)), "X-Repo-Commit": COMMIT, "ETag": '"1"', "Accept-Ranges": "bytes",
            "Content-Range": f"bytes {first}-{int(first) + len(content) - 1}/{whole}",
        }.items():  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        """Nothing: tests are quiet."""


@pytest.fixture
def from_hub(copy, tmp_path):
    """A function that reads a place in a process of its own, for which this machine is the hub."""

    def handler(*arguments, **more):
        return Hub(*arguments, folder=copy, **more)

    def found(place):
        own = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "home")}
        environment = os.environ | own | {"NO_PROXY": "127.0.0.1", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", READ, place], env=environment, check=True, capture_output=True, text=True
        )
        return json.loads(done.stdout)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_a_data_set_is_read_from_a_hub_at_its_commit(from_hub):
    """Though stages are offline otherwise: the same as from a copy."""
    assert from_hub(f"hub:team/reviews?config=small&revision={COMMIT}") == [
        ["validation", {"sentence": "three", "label": "bad"}],
        ["train", {"sentence": "one", "label": "bad"}],
        ["train", {"sentence": "two", "label": "good"}],
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", [f"none?revision={COMMIT}", f"reviews?revision={COMMIT[::-1]}"])
def test_a_data_set_or_commit_that_the_hub_lacks_is_told(from_hub, name):
    """By its place."""
    assert from_hub(f"hub:team/{name}").startswith(f"ingest.source: hub:team/{name}: Couldn't find")
