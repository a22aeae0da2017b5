"""Remote files (`https://…/a.csv`, `s3://bucket/*.jsonl`), through fsspec.

Each file is downloaded into a temporary one before it is read: a lost connection is then an error instead of a short
table, and random access does not depend on the server.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from pretune.data.ingest.sources.files import File
from pretune.errors import DataError

ACCESS_STEPS = {  # what to do where access is denied, by the beginning of the address
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; FSSPEC_S3_ANON=true for a public bucket",
    "http": "use an address that needs no password, or download the file yourself",
}
ACCESS_DENIED = (401, 403)  # HTTP status codes
TIMEOUT = 60  # seconds without a byte


def find(address: str) -> list[File]:
    """The files at an address or a glob, sorted by name. Raises DataError where there is none, or on no answer."""
    import fsspec

    with _as_data_error(address):
        system, path = fsspec.core.url_to_fs(address, **_options(address))
        names = sorted(system.glob(path)) if "*" in path else [path]
    if not names:
        raise DataError(f"ingest.source: nothing at {address}", "correct ingest.source, then: pretune run")
    return [File(_without_query(str(name)), partial(_download, system, str(name), address)) for name in names]


def _options(address: str) -> dict[str, Any]:
    """Options of the file system: for a web server the proxy of the environment, and bytes as they are stored."""
    if not address.startswith("http"):
        return {}
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT, sock_read=TIMEOUT)  # 5 minutes in all by default
    return {"client_kwargs": {"trust_env": True, "headers": {"Accept-Encoding": "identity"}, "timeout": timeout}}


def _without_query(name: str) -> str:
    """The name without its query, which can hold a signature and hides the ending."""
    return name.partition("?")[0] if name.startswith("http") else name


def _download(system: Any, name: str, address: str) -> BinaryIO:
    """Download a file and open it; its name on disk is removed at once."""
    with tempfile.TemporaryDirectory() as folder, _as_data_error(address):
        path = Path(folder) / "file"
        system.get_file(name, str(path))
        return path.open("rb")


@contextmanager
def _as_data_error(address: str) -> Iterator[None]:
    """Turn errors into DataError: each file system raises errors of its own."""
    try:
        yield
    except (ImportError, ValueError) as error:
        raise DataError(f"ingest.source: {address}: {error}", "pip install 'pretune[remote]'") from None
    except FileNotFoundError:
        raise DataError(f"ingest.source: nothing at {address}", "correct ingest.source, then: pretune run") from None
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        denied = getattr(error, "status", 0) in ACCESS_DENIED or "Credentials" in reason
        if denied or isinstance(error, PermissionError):
            steps = (step for start, step in ACCESS_STEPS.items() if address.startswith(start))
            raise DataError(
                f"ingest.source: {address} denies access ({error})", next(steps, "check your credentials")
            ) from None
        raise DataError(
            f"ingest.source: {address} does not answer, or the connection was lost ({reason})",
            "pretune run   (once it answers)",
        ) from None
