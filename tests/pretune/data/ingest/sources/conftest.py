"""Sources in a folder, and functions that read them."""

from __future__ import annotations

import bz2
import gzip
import lzma

import pyarrow as pa
import pytest

from pretune.data.ingest.sources import read


@pytest.fixture
def split_records(tmp_path, ingest_params):
    """A function that reads a source in a folder: (split, record) of each."""
    return lambda source, **changes: list(
        read.read(ingest_params(source=source, **changes), lambda place: tmp_path / place)
    )


@pytest.fixture
def all_records(split_records):
    """A function that reads a source: its records."""
    return lambda source, **changes: [record for _, record in split_records(source, **changes)]


@pytest.fixture
def records(split_records):
    """A function that reads a source in a folder: (split, origin, values or problem) of each record."""
    return lambda source, **changes: [
        (split, record.origin, record.problem or record.values) for split, record in split_records(source, **changes)
    ]


@pytest.fixture
def values(records):
    """A function that reads a source and returns the values alone."""
    return lambda source, **changes: [content for _, _, content in records(source, **changes)]


@pytest.fixture(scope="session")
def write():
    """A function that writes text or bytes, compressed by the ending of the name; zstd by Arrow."""

    def write_file(path, content):
        content = content.encode() if isinstance(content, str) else content
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".zst":
            with pa.CompressedOutputStream(str(path), "zstd") as file:
                file.write(content)
        else:
            path.write_bytes(
                {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}.get(path.suffix, bytes)(content)
            )

    return write_file


@pytest.fixture
def read_in(ingest_params):
    """A function that returns the values of a source in a folder of its own."""
    return lambda folder, source, **changes: [
        record.values for _, record in read.read(ingest_params(source=source, **changes), lambda path: folder / path)
    ]
