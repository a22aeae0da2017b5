"""A Prefect server of this workspace, which answers its own address only: `python -m flows.server PORT [ephemeral]`.

It listens on this machine, but so does a browser that shows somebody's page: Prefect itself would answer
any page (Origin), and any name that leads here (Host).
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from pretune.process import die_with_parent

HOST = "127.0.0.1"
Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Callable[[], Awaitable[Message]], Send], Awaitable[None]]
REFUSED = b"403: this server answers its own address only\n"


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
    die_with_parent()
    main(int(sys.argv[1]), ephemeral="ephemeral" in sys.argv[2:])
