"""Get Prefect ready for one flow run: quiet, private, and without waiting for a server that is not there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from pretune.lineage import state_dir

QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_SERVER_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "60",
}


def server_settings(root: Path) -> dict[str, str]:
    """The environment of a Prefect server of this workspace: its database lies in `.pretune/`."""
    database = state_dir(root) / "prefect.db"
    return {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }


def address_file(root: Path) -> Path:
    """Where `pretune ui` leaves the address of the server that it runs."""
    return state_dir(root) / "prefect-api-url"


def load_pipeline(root: Path) -> Callable[..., dict[str, Any]] | None:
    """The flow, ready to be called; None where a Prefect API is configured but does not answer."""
    state_dir(root).mkdir(parents=True, exist_ok=True)
    for name, value in (QUIET | server_settings(root)).items():
        os.environ.setdefault(name, value)
    url = os.environ.get("PREFECT_API_URL")
    if not url and (path := address_file(root)).is_file():
        running = path.read_text(encoding="utf-8").strip()
        if _answers(running):
            os.environ["PREFECT_API_URL"] = url = running
    if url and not _answers(url):
        return None
    from flows.pipeline import pipeline

    return pipeline.with_options(log_prints=False)


def _answers(url: str) -> bool:
    try:
        with urlopen(f"{url.rstrip('/')}/health", timeout=2) as response:
            return bool(json.load(response))
    except (URLError, OSError, ValueError):
        return False
