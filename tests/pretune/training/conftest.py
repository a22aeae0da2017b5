"""Training in processes of its own, forked from one that has imported everything: see trainee.py."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Ended:
    """How a training process ended; `code` is negative if a signal ended it."""

    code: int
    stderr: str
    result: dict

    @property
    def learnt(self):
        """The results that interruptions must not change: weights, records, validations, steps."""
        return {name: self.result[name] for name in ("weights", "records", "validations", "steps", "skipped")}


class Trainees:
    """Starts training processes, and gives each case a folder for its checkpoints."""

    def __init__(self, socket_path, root):
        self._path, self._root, self._number = socket_path, root, itertools.count()

    def folder(self):
        """A new folder for checkpoints."""
        return str(self._root / f"checkpoints-{next(self._number)}")

    def run(self, case, *, kill_after=None):
        """Run `case` to its end, or kill it after `kill_after` seconds."""
        case = {"folder": self.folder()} | case
        out = self._root / f"out-{next(self._number)}"
        out.mkdir()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self._path)
            file = connection.makefile("rw", encoding="utf-8")
            print(json.dumps(case | {"out": str(out)}), file=file, flush=True)
            process = int(file.readline())
            if kill_after is not None:
                connection.settimeout(kill_after)
                try:
                    ended = connection.recv(100)
                except TimeoutError:
                    with contextlib.suppress(ProcessLookupError):  # it has ended at this moment
                        os.kill(process, signal.SIGKILL)
                    connection.settimeout(None)
                    ended = connection.recv(100)
                code = int(ended)
            else:
                code = int(file.readline())
        path = out / "result.json"
        result = json.loads(path.read_text(encoding="utf-8")) if path.exists() and code >= 0 else {}
        return Ended(code, (out / "stderr").read_text(encoding="utf-8"), result)

    def finish(self, case):
        """Run `case`, which must succeed."""
        ended = self.run(case)
        assert ended.code == 0, ended.stderr
        return ended

    @staticmethod
    def intact(folder):
        """The steps of the intact checkpoints."""
        from pretune.training import checkpoint

        steps = []
        for path in Path(folder).glob("step-????????"):
            try:
                checkpoint.verify(path)
            except checkpoint.DamagedError:
                continue
            steps.append(int(path.name[5:]))
        return sorted(steps)

    @staticmethod
    def map(function, cases):
        """Call `function` for each of `cases`, two at a time; the results in their order."""
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(function, cases))


@pytest.fixture(scope="session")
def trainees(tmp_path_factory, shared_words):
    """Starts processes that train tiny models."""
    from pretune.data.loading import corpus

    root = tmp_path_factory.mktemp("trainees")
    shared_words.save_pretrained(root / "words")
    (root / "corpus").mkdir()
    documents = [[(7 * row + place * place) % 300 + 60 for place in range(5 + row % 23)] for row in range(45)]
    corpus.write(root / "corpus", documents)
    command = [sys.executable, Path(__file__).parent / "trainee.py", "socket", "words", "corpus"]
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout.readline() == "ready\n"
        yield Trainees(str(root / "socket"), root)
        server.kill()
