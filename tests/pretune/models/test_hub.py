"""`model.init: NAME@REVISION`: fetched once, from a local server with the API of huggingface.co."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from pretune.models import build
from pretune.objectives.pretraining.masked_lm import MaskedLM

pytestmark = pytest.mark.slow
COMMIT, OTHER = "1" * 40, "2" * 40
# In a process of its own, for the hub's client reads its settings at import. Prints the result for each checkpoint.
LOAD = """
import hashlib, json, sys, time
from pathlib import Path
time.sleep = lambda _: None  # the client tries a server that is down again for 23 seconds
from pretune.data import tokenizer
from pretune.errors import PretuneError
from pretune.models import build
from pretune.objectives.pretraining.masked_lm import MaskedLM
from pretune.config.params import ModelParams
words, results = tokenizer.load(Path(sys.argv[1])), {}
for init in sys.argv[2:]:
    try:
        model = build.first(MaskedLM, ModelParams(type="bert", init=init, config={}), words, Path)
    except PretuneError as error:
        results[init] = [type(error).__name__, str(error), error.next_step]
    else:
        state = model.state_dict()
        results[init] = hashlib.sha256(b"".join(state[name].numpy().tobytes() for name in sorted(state))).hexdigest()
print(json.dumps(results))
"""


class Hub(BaseHTTPRequestHandler):
    """Serves `server.folder`/NAME at COMMIT."""

    def do_HEAD(self):
        """The headers of a file."""
        self._answer(with_body=False)

    def do_GET(self):
        """The file."""
        self._answer(with_body=True)

    def _answer(self, *, with_body):
        self.server.requests.append((self.command, self.path))
        name, resolve, rest = self.path.lstrip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        path = self.server.folder / name / file
        headers = {"X-Repo-Commit": COMMIT}
        error, content = "", b""
        if not resolve or not (self.server.folder / name).is_dir():
            error = "RepoNotFound"
        elif revision != COMMIT:
            error = "RevisionNotFound"
        elif not path.is_file():
            error = "EntryNotFound"
        else:
            content = path.read_bytes()
            headers["ETag"] = f'"{hashlib.sha256(content).hexdigest()}"'
        self.send_response(404 if error else 200)
        for key, value in (headers | ({"X-Error-Code": error} if error else {})).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, *_):
        """Print nothing: `requests` has it."""


@pytest.fixture
def hub(tmp_path, tiny, words):
    """A hub with a small BERT under several names: valid, and in forms that are refused."""
    folder = tmp_path / "hub"
    build.save(build.new(MaskedLM, tiny("bert")), words, folder / "good/bert", {})
    for name in ("code", "pickled", "partial"):
        shutil.copytree(folder / "good/bert", folder / "bad" / name)
    config = json.loads((folder / "bad/code/config.json").read_text(encoding="utf-8"))
    (folder / "bad/code/config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "x.X"}}))
    weights = folder / "bad/pickled/model.safetensors"
    torch.save({}, weights.with_name("pytorch_model.bin"))
    weights.unlink()
    (folder / "bad/partial/config.json").unlink()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.folder, server.requests = folder, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def load(hub, tmp_path):
    """A function that loads checkpoints as a stage does; the digest of the weights, or the error, of each."""

    def run(*names, download):
        environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")} | {
            "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_OFFLINE": "0" if download else "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TRANSFORMERS_VERBOSITY": "error",
            build.DOWNLOAD: "1" if download else "",
        }
        command = [sys.executable, "-c", LOAD, str(hub.folder / "good/bert"), *names]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def weights_of(folder):
    """The digest that LOAD prints, of the model in a folder."""
    state = build.load(MaskedLM, folder)[0].state_dict()
    return hashlib.sha256(b"".join(state[name].numpy().tobytes() for name in sorted(state))).hexdigest()


def test_a_checkpoint_is_fetched_once_and_an_invalid_one_is_reported(hub, load):
    """Only the pinned commit, and later without network; everything else is an error with a next step."""
    good = f"good/bert@{COMMIT}"
    wrong = {
        f"good/bert@{OTHER}": "cannot be fetched",
        f"nobody/nothing@{COMMIT}": "cannot be fetched",
        f"bad/partial@{COMMIT}": "cannot be fetched",
        f"bad/pickled@{COMMIT}": "model.safetensors",
        f"bad/code@{COMMIT}": "auto_map",
    }
    assert load(good, download=False)[good][0] == "DataError"
    assert hub.requests == []
    results = load(good, *wrong, download=True)
    assert results.pop(good) == weights_of(hub.folder / "good/bert")
    assert {("GET", f"/good/bert/resolve/{COMMIT}/{name}") for name in ("config.json", "model.safetensors")} <= set(
        hub.requests
    )
    assert not [path for method, path in hub.requests if method == "GET" and path.endswith(".bin")]
    for init, words in wrong.items():
        error, message, next_step = results[init]
        assert error == "DataError"
        assert init in message
        assert words in message
        assert next_step

    hub.shutdown()
    hub.server_close()
    hub.requests.clear()
    assert load(good, download=False)[good] == weights_of(hub.folder / "good/bert")
    results = load(good, f"good/bert@{OTHER}", download=True)
    assert results[good] == weights_of(hub.folder / "good/bert")
    assert "cannot be fetched" in results[f"good/bert@{OTHER}"][1]
