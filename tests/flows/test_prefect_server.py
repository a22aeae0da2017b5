from __future__ import annotations

import http.client
import socket

import pytest

from flows import prefect_server
from flows.prefect_server import HOST

pytestmark = pytest.mark.slow  # a server makes its database
FOREIGN = "https://evil.example"
ASK_FIRST = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
WEBSOCKET = {
    "Connection": "Upgrade", "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Protocol": "prefect",
}  # fmt: skip


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """The port of a Prefect server as a flow run and `pretune ui` start it, in a folder that an address would cut."""
    outside = tmp_path_factory.mktemp("served")
    root = outside / "50%20off? #é"
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    log = root / ".pretune" / "logs" / "server.log"
    server = prefect_server.start_server(root, port, log, ephemeral=True)
    try:
        assert prefect_server.wait(server, f"http://{HOST}:{port}/api"), log.read_text(encoding="utf-8")
        assert (root / ".pretune" / "prefect.db").is_file()
        assert list(outside.iterdir()) == [root]
        yield port
    finally:
        server.terminate()
        server.wait()


def ask(port, method, path, **headers):
    """Status and headers of the answer; header names are written with underscores, {port} is filled in."""
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    sent = {name.replace("_", "-"): value.format(port=port) for name, value in headers.items()}
    connection.request(method, path, headers=sent, body="{}" if method == "POST" else None)
    answer = connection.getresponse()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}


@pytest.mark.parametrize(
    ("method", "path", "more"),
    [
        ("GET", "/api/health", {}),
        ("POST", "/api/flow_runs/filter", {}),
        ("OPTIONS", "/api/deployments/", ASK_FIRST),
        ("GET", "/api/events/out", WEBSOCKET),
        ("GET", "/ui-settings", {}),
    ],
)
@pytest.mark.parametrize(
    "foreign",
    [{"Origin": FOREIGN}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"}, {"Host": "evil.example:{port}"}],
    ids=str,
)
def test_a_page_of_somebody_else_is_refused(port, method, path, more, foreign):
    """Another Origin, and a name that was made to lead here: 403, and nothing that lets a browser read the answer."""
    status, headers = ask(port, method, path, **more, **foreign)
    assert status == 403
    assert "access-control-allow-origin" not in headers


def test_its_own_pages_and_programs_are_answered(port):
    """The UI's origin, either name of this machine, and clients that are no page; websockets too."""
    for name in (HOST, "localhost"):
        own = {"Host": f"{name}:{port}", "Origin": f"http://{name}:{port}"}
        status, headers = ask(port, "GET", "/api/health", **own)
        assert (status, headers["access-control-allow-origin"]) == (200, own["Origin"])
        assert ask(port, "OPTIONS", "/api/deployments/", **own, **ASK_FIRST)[0] == 200
        assert ask(port, "GET", "/api/events/out", **own, **WEBSOCKET)[0] == 101
    assert ask(port, "GET", "/api/health")[0] == 200
    assert ask(port, "GET", "/api/events/out", **WEBSOCKET)[0] == 101


def test_a_change_needs_a_token(port):
    """A POST without Prefect's CSRF token is refused even without an Origin; Prefect's own client has one."""
    assert ask(port, "POST", "/api/flow_runs/filter")[0] == 403
    from prefect.client.orchestration import SyncPrefectClient

    with SyncPrefectClient(f"http://{HOST}:{port}/api") as client:
        assert client.read_flow_runs() == []
