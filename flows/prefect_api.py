"""The Prefect API that is set (PREFECT_API_URL) or that `pretune ui` runs, and its client."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from pretune.errors import RefusedError, WorkspaceError
from pretune.lineage.graph import state_dir

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

NEXT_STEP = "export PREFECT_API_AUTH_STRING=…   (pretune stack up prints it), or: pretune run --no-prefect"
ANSWER = 10.0  # seconds that a request may take
QUIET = {"PREFECT_LOGGING_LEVEL": "CRITICAL", "PREFECT_LOGGING_TO_API_ENABLED": "false"}
PRIVATE = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}


def address_file(root: Path) -> Path:
    """The file in which `pretune ui` stores the address of its server."""
    return state_dir(root) / "prefect-api-url"


def answers(url: str) -> bool:
    """Whether a Prefect API is healthy at `url`."""
    try:
        with urlopen(f"{url.rstrip('/')}/health", timeout=2) as response:
            return bool(json.load(response))
    except (URLError, OSError, ValueError):
        return False


def configured(root: Path) -> str | None:
    """The address of the Prefect API that is set (PREFECT_API_URL) or that `pretune ui` runs; None without one."""
    return os.environ.get("PREFECT_API_URL") or _running(root)


def check_password(url: str) -> None:
    """Raise RefusedError if the API at `url` does not take the user's password, for which its health does not ask."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY

    if PREFECT_API_KEY.value():  # Prefect Cloud
        return
    password = PREFECT_API_AUTH_STRING.value()
    token = base64.b64encode(password.encode()).decode() if password else ""
    request = Request(f"{url.rstrip('/')}/admin/version", headers={"Authorization": f"Basic {token}"} if token else {})
    try:
        urlopen(request, timeout=ANSWER).close()
    except HTTPError as error:
        if error.code in {401, 403}:
            reason = "refuses PREFECT_API_AUTH_STRING" if password else "asks for PREFECT_API_AUTH_STRING"
            raise RefusedError(f"the Prefect server at {url} {reason}", NEXT_STEP) from None


@contextmanager
def connect(url: str) -> Iterator[SyncPrefectClient]:
    """Prefect's client of the API at `url`, with the user's settings of authentication."""
    for name, value in (QUIET | PRIVATE | {"PREFECT_API_URL": url}).items():
        os.environ.setdefault(name, value)
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY

    credentials = {"auth_string": PREFECT_API_AUTH_STRING.value(), "api_key": PREFECT_API_KEY.value()}
    with SyncPrefectClient(url, httpx_settings={"timeout": ANSWER}, **credentials) as client:
        yield client


def _running(root: Path) -> str | None:
    """The address of the server of `pretune ui`, if it is running."""
    path = address_file(root)
    url = path.read_text(encoding="utf-8").strip() if path.is_file() else None
    return url if url and answers(url) else None


@contextmanager
def server(root: Path) -> Iterator[SyncPrefectClient]:
    """A client of the API that is set or running. Raises WorkspaceError without one."""
    url = configured(root)
    if url is None:
        raise WorkspaceError("no Prefect server is set or running", "pretune ui, or set PREFECT_API_URL")
    if not answers(url):
        raise WorkspaceError(f"the Prefect server at {url} does not answer", "set PREFECT_API_URL to another one")
    check_password(url)
    with connect(url) as client:
        yield client
