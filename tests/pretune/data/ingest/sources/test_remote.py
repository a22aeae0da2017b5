from __future__ import annotations

import functools
import gzip
import http.server
import json
import threading
import urllib.request

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pretune.data.ingest.sources import read
from pretune.errors import DataError

ROWS = "".join(json.dumps({"text": f"text {number}"}) + "\n" for number in range(2000))


class Files(http.server.SimpleHTTPRequestHandler):
    """The files of a folder; `/locked/` needs a password, and `/broken/` closes the connection half-way."""

    def do_GET(self):
        if self.path.startswith("/locked/"):
            self.send_error(401)
            return
        if self.path.startswith("/broken/"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(ROWS)))
            self.end_headers()
            self.wfile.write(ROWS[: len(ROWS) // 2].encode())
            self.close_connection = True
            return
        super().do_GET()

    def log_message(self, *_):
        """Print nothing."""


@pytest.fixture
def address(tmp_path, monkeypatch):
    """A web server on this machine with the folder `web`."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "web").mkdir()
    handler = functools.partial(Files, directory=str(tmp_path / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def values(ingest_params):
    """A function that reads an address and returns the values of its records."""

    def read_values(source, **changes):
        params = ingest_params(source=source, **{"allow": ["network"]} | changes)
        return [record.values for _, record in read.read(params, lambda place: place)]

    return read_values


def test_files_of_a_web_server_are_read_like_local_ones(tmp_path, address, values):
    """As they are, compressed, and in a format with random access; a query is not part of the ending."""
    web = tmp_path / "web"
    (web / "a.csv").write_text("text,label\nhello,1\n", encoding="utf-8")
    (web / "a.jsonl.gz").write_bytes(gzip.compress(ROWS.encode()))
    pq.write_table(pa.table({"text": ["x", "y"]}), web / "a.parquet")
    assert values(f"{address}/a.csv") == values(f"{address}/a.csv?token=1") == [{"text": "hello", "label": "1"}]
    assert values(f"{address}/a.jsonl.gz") == [json.loads(line) for line in ROWS.splitlines()]
    assert values([f"{address}/a.parquet", f"{address}/a.csv"])[:2] == [{"text": "x"}, {"text": "y"}]


def test_a_signature_in_an_address_is_in_no_origin(tmp_path, address, ingest_params):
    """Since origins are written to the snapshot."""
    (tmp_path / "web" / "a.csv").write_text("text\nhello\n", encoding="utf-8")
    params = ingest_params(source=f"{address}/a.csv?token=secret", allow=["network"])
    assert [record.origin for _, record in read.read(params, lambda place: place)] == [f"{address}/a.csv:2"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("none.csv", "nothing at"), ("locked/a.csv", "denies access"), ("broken/a.jsonl", "lost")],
)
def test_a_file_that_cannot_be_downloaded_is_an_error(address, values, name, message):
    """Missing, denied, or a lost connection: never a short table."""
    with pytest.raises(DataError, match=message) as caught:
        values(f"{address}/{name}")
    assert f"{address}/{name}" in str(caught.value)
    assert caught.value.next_step


def test_a_web_server_that_does_not_answer_is_an_error(values):
    """Nothing listens on port 1."""
    with pytest.raises(DataError, match=r"127\.0\.0\.1:1/a\.csv does not answer"):
        values("http://127.0.0.1:1/a.csv")


@pytest.mark.slow
def test_objects_of_a_bucket_are_read_by_glob(s3, values):
    """In the order of their names, compressed or not; subfolders are not part of the glob."""
    s3.pipe("bucket/b.jsonl.gz", gzip.compress(b'{"text": "b"}\n'))
    s3.pipe("bucket/a.jsonl.gz", gzip.compress(ROWS.encode()))
    s3.pipe("bucket/deeper/c.jsonl.gz", gzip.compress(b'{"text": "c"}\n'))
    texts = [row["text"] for row in values("s3://bucket/*.jsonl.gz")]
    assert texts == [*(f"text {number}" for number in range(2000)), "b"]
    assert values("s3://bucket/deeper/c.jsonl.gz") == [{"text": "c"}]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["s3://absent/*.csv", "s3://absent/a.csv", "s3://bucket/a.csv", "s3://bucket/x*.csv"])
@pytest.mark.usefixtures("s3")
def test_a_missing_bucket_or_object_is_an_error(values, place):
    """The message names the address."""
    with pytest.raises(DataError) as caught:
        values(place)
    assert str(caught.value) == f"ingest.source: nothing at {place}"


@pytest.mark.slow
@pytest.mark.usefixtures("s3")
def test_denied_access_to_a_bucket_is_an_error_with_the_variables_to_set(moto, values):
    """For keys that the server does not know."""

    def authorised_from(request):
        plain = {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(f"{moto}/moto-api/reset-auth", request, plain)).close()

    authorised_from(b"0")
    try:
        for place in ("s3://bucket/a.csv", "s3://bucket/*.csv"):
            with pytest.raises(DataError, match="denies access") as caught:
                values(place)
            assert "AWS_ACCESS_KEY_ID" in caught.value.next_step
    finally:
        authorised_from(b"inf")


@pytest.mark.slow
@pytest.mark.usefixtures("s3")
def test_a_bucket_without_any_credentials_is_an_error(monkeypatch, values):
    """With the same message as for wrong credentials."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(DataError, match="denies access"):
        values("s3://bucket/a.csv")
