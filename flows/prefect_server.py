"""A Prefect API for a flow run: the one that is configured or running, else a server of its own.

Prefect would start such a server itself, but only after importing all of it into our process;
started here, and at once, it comes up while we look at the graph.

`python -m flows.prefect_server PORT [ephemeral]` is a server that answers its own address only. It listens on
this machine, but so does a browser that shows somebody's page: Prefect itself would answer any page (Origin),
and any name that leads here (Host).
"""

from __future__ import annotations

import gc
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from pretune import process
from pretune.lineage.graph import state_dir

HOST = "127.0.0.1"
Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Callable[[], Awaitable[Message]], Send], Awaitable[None]]
REFUSED = b"403: this server answers its own address only\n"
START = 90.0  # seconds that the server may take to answer; the first time it makes its database
QUIET = {"PREFECT_LOGGING_LEVEL": "CRITICAL", "PREFECT_LOGGING_TO_API_ENABLED": "false"}
PRIVATE = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}


def start_server(root: Path, port: int, log: Path, *kind: str) -> subprocess.Popen[bytes]:
    """A Prefect server with its database in `.pretune/`, in a process group of its own; it dies with this process.

    One of the kind `ephemeral` is there for a flow run: no UI, no scheduler.
    """
    settings = PRIVATE | {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{state_dir(root) / 'prefect.db'}",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": origins(port),
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_UI_API_URL": f"http://{HOST}:{port}/api",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]),
        process.PARENT: str(os.getpid()),
    }
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.prefect_server", str(port), *kind], env=os.environ | settings,
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, process_group=0,
        )  # fmt: skip


def address_file(root: Path) -> Path:
    """Where `pretune ui` leaves the address of the server that it runs."""
    return state_dir(root) / "prefect-api-url"


@contextmanager
def api(root: Path) -> Iterator[Callable[[], Callable[..., dict[str, Any]] | None]]:
    """A Prefect API during the block; what it yields gives the pipeline as a flow, or None where no API answers."""
    for name, value in (QUIET | PRIVATE).items():
        os.environ.setdefault(name, value)
    configured = os.environ.get("PREFECT_API_URL") or _running(root)
    if configured:
        os.environ["PREFECT_API_URL"] = configured
        yield lambda: _load() if answers(configured) else None
        return
    server, url = _start(root)
    os.environ["PREFECT_API_URL"] = url

    def flow() -> Callable[..., dict[str, Any]] | None:
        pipeline = _load()  # takes a second or two, while the server comes up
        return pipeline if wait(server, url) else None

    try:
        yield flow
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
    return start_server(root, port, log, "ephemeral"), f"http://{HOST}:{port}/api"


def wait(server: subprocess.Popen[bytes], url: str) -> bool:
    """Whether a server that was started comes to answer."""
    deadline = time.monotonic() + START
    while server.poll() is None and time.monotonic() < deadline:
        if answers(url):
            return True
        time.sleep(0.05)
    return False


def addresses(port: int) -> list[str]:
    """Host and port as a client on this machine writes them."""
    return [f"{HOST}:{port}", f"localhost:{port}"]


def origins(port: int) -> str:
    """The pages that may ask, as Prefect's setting wants them."""
    return ",".join(f"http://{address}" for address in addresses(port))


def own_address(app: App, port: int) -> App:
    """Refuse requests and websockets for another Host or from another Origin; a client that is no page sends none."""
    allowed = {b"host": addresses(port), b"origin": origins(port).split(",")}

    async def guarded(scope: Message, receive: Callable[[], Awaitable[Message]], send: Send) -> None:
        said = [(name, value.decode("latin-1").lower()) for name, value in scope.get("headers", ()) if name in allowed]
        if all(value in allowed[name] for name, value in said):
            await app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})  # before it is accepted: 403
        else:
            headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(REFUSED)).encode())]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": REFUSED})

    return guarded


def main(port: int, *, ephemeral: bool) -> None:
    """Serve until SIGTERM."""
    gc.disable()  # what is imported stays: to look for garbage in it takes a fifth of the time
    import uvicorn
    from prefect.server.api.server import create_app

    app = own_address(create_app(final=True, ephemeral=ephemeral), port)
    gc.freeze()
    gc.enable()
    uvicorn.run(app, host=HOST, port=port, log_level="error", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    process.die_with_parent()
    main(int(sys.argv[1]), ephemeral="ephemeral" in sys.argv[2:])
