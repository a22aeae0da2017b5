"""File systems of addresses (`https://…`, `s3://bucket/…`) through fsspec, with their errors as DataError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pretune.errors import DataError

ACCESS_STEPS = {  # what to do where access is denied, by the beginning of the address
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; FSSPEC_S3_ANON=true for a public bucket",
    "http": "use an address that needs no password, or download the file yourself",
}
ACCESS_DENIED = (401, 403)  # HTTP status codes
TIMEOUT = 60  # seconds without a byte


def file_system(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it."""
    import fsspec

    system, path = fsspec.core.url_to_fs(address, **_options(address))
    return system, str(path)


def _options(address: str) -> dict[str, Any]:
    """Options of the file system: for a web server the proxy of the environment, and bytes as they are stored."""
    if not address.startswith("http"):
        return {}
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT, sock_read=TIMEOUT)  # 5 minutes in all by default
    return {"client_kwargs": {"trust_env": True, "headers": {"Accept-Encoding": "identity"}, "timeout": timeout}}


@contextmanager
def as_data_error(setting: str, address: str, missing: str) -> Iterator[None]:
    """Turn errors into DataError: each file system raises errors of its own.

    setting: the one that names the address. missing: what to do where nothing lies there.
    """
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{setting}: nothing at {address}", missing) from None
    except (ImportError, ValueError) as error:
        raise DataError(f"{setting}: {address}: {error}", "pip install 'pretune[remote]'") from None
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        denied = getattr(error, "status", 0) in ACCESS_DENIED or "Credentials" in reason
        if denied or isinstance(error, PermissionError):
            steps = (step for start, step in ACCESS_STEPS.items() if address.startswith(start))
            raise DataError(
                f"{setting}: {address} denies access ({error})", next(steps, "check your credentials")
            ) from None
        raise DataError(
            f"{setting}: {address} does not answer, or the connection was lost ({reason})",
            "pretune run   (once it answers)",
        ) from None
