from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows.forkserver import CODE, ForkServer

ROOT = Path(__file__).parent.parent.parent
IMPORTING = """
import importlib, sys, threading
import torch
calls = []
torch.cuda.is_available = torch.cuda.device_count = torch.cuda.init = lambda: calls.append("a GPU") or 0
from pathlib import Path
from flows import forkserver
from pretune.lineage.graph import Workspace
from tasks import __main__ as tasks
modules = [*forkserver.DVC_MODULES, *(f"tasks.{name}" for name in sys.argv[1:])]
for module in [*modules, *sum(forkserver.LAZY_IMPORTS.values(), ())]:
    importlib.import_module(module)
Workspace(Path.cwd()).nodes
print(calls, threading.active_count(), torch.cuda.is_initialized())
"""


@pytest.fixture
def server(tmp_path):
    """A function that starts a server for stages; it ends with the test."""
    servers = []

    def start(*stages, root=ROOT):
        servers.append(ForkServer(root, os.environ, list(stages), tmp_path / "forkserver.log"))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def output_of(server, *command, **environment):
    """What `python -m command` prints, and its exit code."""
    with server.start(*command, environment=os.environ | environment) as child:
        return child.stdout.read(), child.wait()


@pytest.mark.slow
def test_what_the_server_imports_starts_no_thread_and_asks_for_no_gpu():
    """A fork would lose the thread, and CUDA does not work in the fork of a process that has used it."""
    stages = [path.stem for path in (ROOT / "tasks").glob("*.py") if not path.stem.startswith("_")]
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING, *stages], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[-2] == "[] 1 False"


def test_a_forked_process_is_the_one_that_would_have_been_started(server):
    """Same output and exit code, success or not, in the environment that it is given, in a group of its own."""
    here, wrong = ["pretune.lineage.dvc", "root"], ["pretune.lineage.dvc", "repro", "no-such-stage"]
    warm, cold = server("ingest"), server()
    assert warm._channel, "this machine can fork"
    assert output_of(warm, *here) == output_of(cold, *here)
    output, code = output_of(warm, *wrong)
    assert (output, code) == output_of(cold, *wrong)
    assert code == 255
    with warm.start(*here, environment=os.environ) as child:
        assert os.getpgid(child.pid) == child.pid
        child.stdout.read()


def test_without_a_server_processes_are_started(server):
    """A server that was killed costs time, and nothing else."""
    warm = server("ingest")
    os.kill(warm._process.pid, signal.SIGKILL)
    warm._process.wait()
    assert output_of(warm, "pretune.lineage.dvc", "root") == (".\n", 0)


def test_code_that_was_edited_is_not_current(tmp_path):
    """Of the modules that are imported, whichever was changed or removed; others are read when they are imported."""
    for name in CODE:
        shutil.copytree(ROOT / name, tmp_path / name)
    probe = (
        "import sys, pathlib; sys.path.insert(0, '.')\n"
        "from flows.forkserver import Code\n"
        "code = Code(pathlib.Path.cwd()); seen = [code.is_current()]\n"
        "for path in sys.argv[1:]:\n"
        "    file = pathlib.Path(path); before = file.read_text(); file.write_text(before + '# edited')\n"
        "    seen.append(code.is_current()); file.write_text(before)\n"
        "pathlib.Path(sys.argv[1]).unlink(); print([*seen, code.is_current()])"
    )
    files = ["pretune/process.py", "flows/forkserver.py", "tasks/finetune.py"]
    done = subprocess.run(
        [sys.executable, "-c", probe, *files], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.lower()) == [True, False, False, True, False]
