"""llama.cpp's HTTP server in a process of its own, on the loopback: asked as its users ask it.

`python -m pretune.release.export.llama_cpp FILE CONTEXT THREADS PORT NAME` is that process. It prints its address, and
ends with its standard input, so also when the process that started it is killed. It answers who has the key: by itself
llama.cpp answers every page and every name that leads here, and the loopback is open to all users of the machine.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from pretune.errors import DataError, WorkspaceError

SECONDS = 600.0  # for one answer
KEY = "PRETUNE_SERVE_KEY"  # not an argument: those of a process can be read by other users


class LlamaCpp:
    """A running server."""

    def __init__(self, address: str, key: str, wait: Callable[[], int]) -> None:
        self.address, self.key = address, key
        self.wait = wait  # until it ends
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open  # never through a proxy

    def render(self, conversation: dict[str, Any]) -> str:
        """The conversation in the model's chat template, up to the answer. conversation: of OpenAI's form."""
        return str(self.post("/apply-template", conversation)["prompt"])

    def tokens(self, text: str) -> list[int]:
        """The ids of a prompt, as the server itself encodes it."""
        return list(self.post("/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"])

    def complete(self, ids: Sequence[int], number: int, top: int) -> list[tuple[int, dict[int, float]]]:
        """At most `number` tokens after `ids` by greedy search, each with the log-probabilities of the `top` best.

        They are missing where a token ends within a character.
        """
        steps: list[tuple[int, dict[int, float]]] = []
        for _ in range(number):  # one by one: probabilities of several cannot be told apart where characters are split
            answer = self.post(
                "/completion",
                {"prompt": [*ids, *(token for token, _ in steps)], "n_predict": 1, "temperature": 0, "n_probs": top,
                 "return_tokens": True},
            )  # fmt: skip
            told = answer.get("completion_probabilities", [])
            likeliest = {token["id"]: token["logprob"] for step in told for token in step["top_logprobs"]}
            steps.append((answer["tokens"][0], likeliest))
            if answer["stop_type"] == "eos":
                break
        return steps

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request."""
        data = json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
        with self._open(urllib.request.Request(self.address + path, data, headers), timeout=SECONDS) as answer:
            return dict(json.load(answer))


@contextmanager
def serve(path: Path, *, context: int, threads: int, port: int = 0, name: str = "") -> Iterator[LlamaCpp]:
    """Serve a GGUF file on 127.0.0.1 until the block ends; DataError if llama.cpp cannot load it.

    context: tokens of a prompt and its answer; 0: as many as the model reads. port: 0 for any. name: the model's in
    answers. The key of clients is that of the variable KEY, else a random one.
    """
    key = os.environ.get(KEY) or secrets.token_urlsafe(24)
    command = [sys.executable, "-m", __name__, str(path), str(context), str(threads), str(port), name or path.stem]
    with (
        TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            env=os.environ | {"GGML_NO_BACKTRACE": "1", KEY: key},  # backtrace: it would start a debugger
        ) as process,
    ):  # fmt: skip
        assert process.stdout
        try:
            address = process.stdout.readline().strip()
            if not address:
                process.wait()
                errors.seek(0)
                raise _refused(path, errors.read())
            yield LlamaCpp(address, key, process.wait)
        finally:
            process.kill()


def _refused(path: Path, output: str) -> DataError | WorkspaceError:
    if "No module named 'xllamacpp'" in output:
        return WorkspaceError("xllamacpp is missing", "pip install 'pretune[gguf]'")
    lines = [line for line in output.splitlines() if line.strip()]
    reason = next((line for line in lines if "error" in line.lower() or "assert" in line.lower()), "")
    return DataError(f"{path.name}: llama.cpp cannot load it: {reason or (lines or ['it ended'])[-1]}")


def main(path: str, context: str, threads: str, port: str, name: str) -> None:
    """Serve until standard input ends."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.model_alias = path, int(context), 1, {name}
    params.cpuparams.n_threads, params.warmup, params.verbosity = int(threads), False, 0
    params.hostnames, params.port, params.ui, params.offline = ["127.0.0.1"], int(port), False, True
    params.cors_origins, params.api_keys = "", [os.environ[KEY]]
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
