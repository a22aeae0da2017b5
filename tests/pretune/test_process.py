from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import build_opener

import pytest

from pretune import process
from pretune.errors import LockedError, TerminatedError

HOLD = """
import pathlib, sys
from pretune.process import lock
with lock(pathlib.Path(sys.argv[1]), "a run"):
    print("held", flush=True)
    sys.stdin.read()
"""
# A parent starts a child that dies with it and tells its pid, then waits to be killed.
CHILD = """
import os, signal
from pretune.process import die_with_parent
die_with_parent()
print(os.getpid(), flush=True)
signal.pause()
"""
FAMILY = f"""
import os, subprocess, sys
from pretune import process
child = [sys.executable, "-c", {CHILD!r}]
subprocess.Popen(child, stdin=subprocess.DEVNULL, env=os.environ | {{process.PARENT: str(os.getpid())}})
sys.stdin.read()
"""
ORPHAN = """
import os, pathlib, sys
from pretune import process
os.environ[process.PARENT] = "1"  # somebody else than this process's parent
process.die_with_parent()
print("survived")
"""
SLOW_END = """
import sys
from pretune.errors import TerminatedError
from pretune.process import terminating
try:
    with terminating():
        print("ready", flush=True)
        sys.stdin.read()
except TerminatedError:
    print("closing", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def started():
    """A function that starts a Python program and waits for its first line; all are ended afterwards."""
    children = []

    def start(code, *arguments, wait=True):
        child = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        children.append(child)
        child.first_line = child.stdout.readline() if wait else ""
        return child

    yield start
    for child in children:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


def test_a_held_lock_is_refused_with_its_holder(tmp_path, started):
    """While another process holds it, the error says what runs and which process."""
    path = tmp_path / "locks" / "run.lock"
    child = started(HOLD, path)
    assert process.is_locked(path)
    with pytest.raises(LockedError, match=rf"a run is already running \(process {child.pid}, since"):
        process.lock(path, "a run").__enter__()


def test_the_lock_of_a_killed_process_is_free(tmp_path, started):
    """The kernel lets go: no stale lock is left to clean up."""
    path = tmp_path / "run.lock"
    child = started(HOLD, path)
    child.kill()
    child.wait()
    assert not process.is_locked(path)
    with process.lock(path, "a run"):
        assert process.is_locked(path)


def test_a_lock_is_free_after_an_error_within(tmp_path):
    """However the block ends, the next may enter."""
    path = tmp_path / "run.lock"
    with pytest.raises(KeyError), process.lock(path, "a run"):
        raise KeyError
    with process.lock(path, "a run"):
        pass
    assert not process.is_locked(path)


def test_no_file_is_no_lock(tmp_path):
    """Asking about a lock that never was creates nothing."""
    assert not process.is_locked(tmp_path / "run.lock")
    assert not list(tmp_path.iterdir())


def test_a_child_dies_with_its_killed_parent(started):
    """After `kill -9` of the parent the child is gone too: its end of the pipe closes."""
    parent = started(FAMILY)
    child = int(parent.first_line)
    parent.kill()
    parent.wait()
    closed, _, _ = select.select([parent.stdout], [], [], 30)
    if not closed:
        os.kill(child, signal.SIGKILL)
    assert closed
    assert parent.stdout.read() == ""


def test_a_child_whose_parent_is_already_gone_does_not_start(started):
    """A parent that was killed before the child could ask the kernel is found by the pid it left."""
    child = started(ORPHAN, wait=False)
    assert child.stdout.read() == ""
    assert child.wait() == -signal.SIGKILL


def test_sigterm_becomes_an_error_that_closes_what_is_open(started):
    """The first SIGTERM unwinds the stack, a second one kills."""
    child = started(SLOW_END)
    child.terminate()
    assert child.stdout.readline() == "closing\n"
    child.terminate()
    assert child.wait() == -signal.SIGTERM


def test_the_handlers_are_put_back():
    """After the block, SIGTERM means what it meant before."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TerminatedError), process.terminating():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_no_client_asks_a_proxy_for_this_machine(monkeypatch):
    """With a proxy for everything that does not answer, loopback is reached at once: urllib, requests and httpx."""
    import httpx
    import requests

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "example.org")
    monkeypatch.delenv("no_proxy", raising=False)
    process.reach_loopback_directly()
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for host in ("127.0.0.1", "localhost"):
            url = f"http://{host}:{server.server_port}/"
            with build_opener().open(url) as response:  # urlopen would keep the proxies for later tests
                assert response.status == 200
            assert requests.get(url, timeout=10).status_code == httpx.get(url).status_code == 200
        server.shutdown()
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "example.org,127.0.0.1,localhost,::1"
