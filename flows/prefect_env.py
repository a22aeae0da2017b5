"""Give one flow run a Prefect API: the one that is configured or running, else a server of its own.

Prefect would start such a server itself, but only after importing all of it into our process;
started here, and at once, it comes up while we look at the graph.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from pretune import process
from pretune.lineage import state_dir

HOST = "127.0.0.1"
START = 90.0  # seconds that the server may take to answer; the first time it makes its database
SERVER = (
    "from pretune.process import die_with_parent; die_with_parent()\n"
    "import sys, uvicorn\n"
    "uvicorn.run('prefect.server.api.server:create_app', factory=True, host=sys.argv[1], port=int(sys.argv[2]),"
    " log_level='error', timeout_graceful_shutdown=1)"
)
QUIET = {"PREFECT_LOGGING_LEVEL": "CRITICAL", "PREFECT_LOGGING_TO_API_ENABLED": "false"}
PRIVATE = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}


def server_settings(root: Path) -> dict[str, str]:
    """The environment of a Prefect server of this workspace: its database lies in `.pretune/`."""
    database = state_dir(root) / "prefect.db"
    return {"PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}", **PRIVATE}


def address_file(root: Path) -> Path:
    """Where `pretune ui` leaves the address of the server that it runs."""
    return state_dir(root) / "prefect-api-url"


@contextmanager
def flow(root: Path) -> Iterator[Callable[..., dict[str, Any]] | None]:
    """The pipeline as a Prefect flow that can be called; None where no Prefect API answers."""
    for name, value in (QUIET | PRIVATE).items():
        os.environ.setdefault(name, value)
    configured = os.environ.get("PREFECT_API_URL") or _running(root)
    if configured:
        os.environ["PREFECT_API_URL"] = configured
        yield _load() if answers(configured) else None
        return
    server, url = _start(root)
    try:
        os.environ["PREFECT_API_URL"] = url
        pipeline = _load()  # takes a second or two, while the server comes up
        yield pipeline if _wait(server, url) else None
    finally:
        del os.environ["PREFECT_API_URL"]
        server.terminate()
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()


def answers(url: str) -> bool:
    """Whether a Prefect API is healthy at `url`."""
    try:
        with urlopen(f"{url.rstrip('/')}/health", timeout=2) as response:
            return bool(json.load(response))
    except (URLError, OSError, ValueError):
        return False


def _load() -> Callable[..., dict[str, Any]]:
    from flows.pipeline import pipeline

    return pipeline.with_options(log_prints=False)


def _running(root: Path) -> str | None:
    """The address of the server of `pretune ui`, if that runs."""
    path = address_file(root)
    url = path.read_text(encoding="utf-8").strip() if path.is_file() else None
    return url if url and answers(url) else None


def _start(root: Path) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    log = state_dir(root) / "logs" / "prefect-server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | server_settings(root) | {"PREFECT_UI_ENABLED": "false", process.PARENT: str(os.getpid())}
    here = str(Path(__file__).parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    with log.open("wb") as file:
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER, HOST, str(port)], env=environment,
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, process_group=0,
        )  # fmt: skip
    return server, f"http://{HOST}:{port}/api"


def _wait(server: subprocess.Popen[bytes], url: str) -> bool:
    deadline = time.monotonic() + START
    while server.poll() is None and time.monotonic() < deadline:
        if answers(url):
            return True
        time.sleep(0.05)
    return False
