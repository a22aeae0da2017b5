"""Files that lie elsewhere (`https://…/a.csv`, `s3://bucket/*.jsonl`), through fsspec.

Each is fetched whole into a temporary file before it is read: a connection that breaks off is an error
rather than a short table, and what needs to move about in a file does not depend on the server.
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

ACCESS = {  # what to do where a store refuses us, by the beginning of its addresses
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; FSSPEC_S3_ANON=true for a public bucket",
    "http": "use an address that answers without a password, or fetch the file yourself",
}
REFUSED = (401, 403)
SILENCE = 60  # seconds without a byte after which a server is given up


def find(address: str) -> list[File]:
    """The files at an address or a glob, by name. Raises DataError where there is none or nobody answers."""
    import fsspec

    with _told(address):
        system, path = fsspec.core.url_to_fs(address, **_options(address))
        names = sorted(system.glob(path)) if "*" in path else [path]
    if not names:
        raise DataError(f"ingest.source: nothing at {address}", "mend ingest.source, then: pretune run")
    return [File(_named(str(name)), partial(_fetched, system, str(name), address)) for name in names]


def _options(address: str) -> dict[str, Any]:
    """What a web server is asked: through the proxy of the environment, and for bytes as they are stored."""
    if not address.startswith("http"):
        return {}
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE)  # not 5 minutes in all
    return {"client_kwargs": {"trust_env": True, "headers": {"Accept-Encoding": "identity"}, "timeout": timeout}}


def _named(name: str) -> str:
    """A name without the question behind it, which may hold a signature and hides the ending."""
    return name.partition("?")[0] if name.startswith("http") else name


def _fetched(system: Any, name: str, address: str) -> BinaryIO:
    """The file, whole, opened; on disk it has no name any more."""
    with tempfile.TemporaryDirectory() as folder, _told(address):
        path = Path(folder) / "file"
        system.get_file(name, str(path))
        return path.open("rb")


@contextmanager
def _told(address: str) -> Iterator[None]:
    """Whatever goes wrong out there, as a DataError: each kind of store raises errors of its own."""
    try:
        yield
    except (ImportError, ValueError) as error:
        raise DataError(f"ingest.source: {address}: {error}", "pip install 'pretune[remote]'") from None
    except FileNotFoundError:
        raise DataError(f"ingest.source: nothing at {address}", "mend ingest.source, then: pretune run") from None
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, PermissionError) or getattr(error, "status", 0) in REFUSED or "Credentials" in reason:
            how = next((how for start, how in ACCESS.items() if address.startswith(start)), "mend your access")
            raise DataError(f"ingest.source: {address} refuses access ({error})", how) from None
        raise DataError(
            f"ingest.source: {address} does not answer, or broke off ({reason})", "pretune run   (when it does)"
        ) from None
