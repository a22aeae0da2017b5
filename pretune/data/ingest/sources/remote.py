"""Remote files (`https://…/a.csv`, `s3://bucket/*.jsonl`), through fsspec.

Each file is downloaded into a temporary one before it is read: a lost connection is then an error instead of a short
table, and random access does not depend on the server.
"""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from pretune.data import remote
from pretune.data.ingest.sources.files import File
from pretune.errors import DataError

MISSING = "correct ingest.source, then: pretune run"


def find(address: str) -> list[File]:
    """The files at an address or a glob, sorted by name. Raises DataError where there is none, or on no answer."""
    with _as_data_error(address):
        system, path = remote.file_system(address)
        names = sorted(system.glob(path)) if "*" in path else [path]
    if not names:
        raise DataError(f"ingest.source: nothing at {address}", MISSING)
    return [File(_without_query(str(name)), partial(_download, system, str(name), address)) for name in names]


def _as_data_error(address: str) -> AbstractContextManager[None]:
    return remote.as_data_error("ingest.source", address, MISSING)


def _without_query(name: str) -> str:
    """The name without its query, which can hold a signature and hides the ending."""
    return name.partition("?")[0] if name.startswith("http") else name


def _download(system: Any, name: str, address: str) -> BinaryIO:
    """Download a file and open it; its name on disk is removed at once."""
    with tempfile.TemporaryDirectory() as folder, _as_data_error(address):
        path = Path(folder) / "file"
        system.get_file(name, str(path))
        return path.open("rb")
