"""A Prefect API for a flow run: the one that is configured or running, else a temporary server.

Prefect would start such a server itself, but only after importing all of Prefect into our process. Started here, it
comes up while the graph is read.

`python -m flows.prefect_server PORT` is the server. It listens on this machine only, unless told otherwise, and refuses
requests for another host name (Host) or from another page in a browser (Origin), which Prefect alone would answer.
"""

from __future__ import annotations

import argparse
import gc
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flows.prefect_api import PRIVATE, QUIET, answers, check_password, configured
from pretune import process
from pretune.lineage.graph import state_dir

HOST = "127.0.0.1"
Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Callable[[], Awaitable[Message]], Send], Awaitable[None]]
REFUSED = b"403: this server answers its own address only\n"
START = 90.0  # seconds that the server may take to answer; at the first start it creates its database


def start_server(root: Path, port: int, log: Path, *, ephemeral: bool = False) -> subprocess.Popen[bytes]:
    """Start a Prefect server with its database in `.pretune/`, in its own process group; it dies with this process.

    ephemeral: for one flow run, without UI and scheduler.
    """
    settings = {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{quote(str(state_dir(root) / 'prefect.db'))}",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]),
        process.PARENT: str(os.getpid()),
    }
    arguments = [str(port), *(["--ephemeral"] if ephemeral else [])]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.prefect_server", *arguments], env=os.environ | settings,
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, process_group=0,
        )  # fmt: skip


@contextmanager
def api(root: Path) -> Iterator[Callable[[], Callable[..., dict[str, Any]] | None]]:
    """A Prefect API during the block. Yields a function that returns the flow, or None if no API answers."""
    for name, value in (QUIET | PRIVATE).items():
        os.environ.setdefault(name, value)
    if there := configured(root):
        os.environ["PREFECT_API_URL"] = there

        def checked() -> Callable[..., dict[str, Any]]:
            pipeline = _load()
            check_password(there)
            return pipeline

        yield lambda: checked() if answers(there) else None
        return
    server, url = _start(root)
    os.environ["PREFECT_API_URL"] = url

    def flow() -> Callable[..., dict[str, Any]] | None:
        pipeline = _load()  # takes a second or two, in which the server starts
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


def _load() -> Callable[..., dict[str, Any]]:
    from flows.pipeline import pipeline

    return pipeline.with_options(log_prints=False)


def _start(root: Path) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    log = state_dir(root) / "logs" / "prefect-server.log"
    return start_server(root, port, log, ephemeral=True), f"http://{HOST}:{port}/api"


def wait(server: subprocess.Popen[bytes], url: str) -> bool:
    """Wait until the server answers. Returns False if it ends or takes longer than START."""
    deadline = time.monotonic() + START
    while server.poll() is None and time.monotonic() < deadline:
        if answers(url):
            return True
        time.sleep(0.05)
    return False


def addresses(port: int, names: Sequence[str] = ()) -> list[str]:
    """The addresses that a client may use, as HOST:PORT: those of this machine, and other names that it has."""
    return [f"{name}:{port}" for name in dict.fromkeys([HOST, "localhost", *names])]


def origins(port: int, names: Sequence[str] = ()) -> str:
    """The origins of the server's own pages, in the format of Prefect's setting."""
    return ",".join(f"http://{address}" for address in addresses(port, names))


def own_address(app: App, port: int, names: Sequence[str] = ()) -> App:
    """Refuse requests and websockets with another Host or Origin. Clients other than browsers send no Origin."""
    allowed = {b"host": addresses(port, names), b"origin": origins(port, names).split(",")}

    async def guarded(scope: Message, receive: Callable[[], Awaitable[Message]], send: Send) -> None:
        headers = [(name, value.decode("latin-1").lower()) for name, value in scope.get("headers", ())]
        if all(value in allowed[name] for name, value in headers if name in allowed):
            await app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})  # before it was accepted: status 403
        else:
            plain = [(b"content-type", b"text/plain"), (b"content-length", str(len(REFUSED)).encode())]
            await send({"type": "http.response.start", "status": 403, "headers": plain})
            await send({"type": "http.response.body", "body": REFUSED})

    return guarded


def main(port: int, host: str, names: Sequence[str], *, ephemeral: bool) -> None:
    """Serve until SIGTERM."""
    url = f"http://{names[0] if names else HOST}:{port}"
    os.environ |= PRIVATE | {
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": origins(port, names),
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_UI_URL": url,  # links in notifications
        "PREFECT_UI_API_URL": f"{url}/api",
    }
    gc.disable()  # collecting garbage during the imports takes a fifth of the time
    import uvicorn
    from prefect.server.api.server import create_app

    app = own_address(create_app(final=True, ephemeral=ephemeral), port, names)
    gc.freeze()
    gc.enable()
    uvicorn.run(app, host=host, port=port, log_level="error", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    if process.PARENT in os.environ:  # a part of a stack outlives the command that starts it
        process.die_with_parent()
    parser = argparse.ArgumentParser(prog="python -m flows.prefect_server")
    parser.add_argument("port", type=int)
    parser.add_argument("--host", default=HOST, help="the address to listen on")
    parser.add_argument(
        "--name", action="append", default=[], help="a name of this machine; the first is used by pages"
    )
    parser.add_argument("--ephemeral", action="store_true", help="for one flow run, without UI and scheduler")
    given = parser.parse_args()
    main(given.port, given.host, given.name, ephemeral=given.ephemeral)
