"""A process that has imported what commands need, and forks one for each: a tenth of a second instead of two.

`python warm.py SOCKET`. A fork has its own folder, environment and output, and imports our code from its folder, as
`python -m` does: only the packages of others are there already. Prefect is not: it reads its settings when imported.
What a command starts as `python -m` is forked, too: its sender and its fork server would import MLflow, DVC and torch.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
from pathlib import Path

PACKAGES = (
    "typer", "rich.progress", "rich.tree", "ruamel.yaml", "pydantic", "psutil", "pandas", "sklearn.metrics",
    "dvc.cli.parser", "dvc.repo.index", "dvc.repo.plots", "dvc.repo.metrics", "dvc.repo.params", "dvc.repo.artifacts",
    "dvc.repo.datasets", "dvc.cachemgr", "dvc.data_cloud", "dvc.lock", "dvc.stage.cache", "dvc.utils.strictyaml",
    "dvc_data.hashfile.db.local", "mlflow", "mlflow.store.tracking.sqlalchemy_store", "mlflow.store.db.utils",
    "mlflow.store.model_registry.sqlalchemy_store", "torch.distributed.checkpoint.hf_storage", "tokenizers",
    "transformers.modeling_utils", "sklearn.feature_extraction.text", "sklearn.linear_model", "captum.attr",
)  # fmt: skip
OURS = ("cli", "flows", "tasks", "pretune")
STARTS = {"cli.app": 2, "flows.sweep.slot": 2, "tasks": 1}  # a sender, a fork server or a slot
STARTS_STAGES, STAGES = {"reproduce", "repro", "exp"}, 7  # words of commands that start a process for each stage
MARK = "CLONE_MARK"  # of the processes of a clone; see conftest.py
PATH = sys.path[1:]
waiting = []  # (pid, socket) of children that wait for what this process starts


def die_with_parent():
    """Have the kernel end this process when the one that started it ends: nothing outlives the tests."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Popen(subprocess.Popen):
    """Starts `python -m` of ours in a process that waits for it, as long as there is one; all else as usual."""

    def _execute_child(self, args, *rest):  # the arguments of subprocess.Popen, in its order
        by_dvc = str(args[-1]).startswith("exec python -m tasks ")  # through a shell
        command = args[-1].split()[1:] if by_dvc else args
        if not (waiting and command[0] in {"python", sys.executable} and command[2].split(".")[0] in OURS):
            super()._execute_child(args, *rest)
            return
        (pass_fds, cwd, env), pipes, (session, group) = rest[3:6], rest[9:15], rest[-2:]
        own = [number if end == -1 else end for number, end in enumerate((pipes[0], pipes[3], pipes[5]))]
        request = {
            "arguments": command[1:], "cwd": os.fspath(cwd or Path.cwd()), "environment": dict(env or os.environ),
            "descriptors": [0, 1, 2, *pass_fds], "session": session, "group": group,
        }  # fmt: skip
        self.pid, channel = waiting.pop()
        with channel:
            socket.send_fds(channel, [json.dumps(request).encode()], [*own, *pass_fds])
            channel.recv(1)  # closed when it has become what it is to be
        self._child_created = True
        self._close_pipe_fds(*pipes)


def keep_ready():
    """Fork processes that wait until this one starts a command; return, in each that gets one, its request."""
    subprocess.Popen = Popen
    for _ in range(STAGES if STARTS_STAGES & set(sys.argv) else STARTS.get(sys.argv[0], 0)):
        ours, theirs = socket.socketpair()
        if not (pid := os.fork()):
            ours.close()
            content, descriptors, *_ = socket.recv_fds(theirs, 1 << 20, 16)
            if not content:  # it has ended
                os._exit(0)
            theirs.detach()
            return json.loads(content), descriptors
        theirs.close()
        waiting.append((pid, ours))
    return None


def forget():
    """Close the sockets of the parent: in a fork, for what waits are no children of it."""
    while waiting:
        waiting.pop()[1].close()


def serve(path):
    """Fork a process for every connection and tell how it ended; return in the process that is to run the command."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(16)
        print("ready", flush=True)
        while True:
            connection, _ = server.accept()
            if os.fork():
                connection.close()
                continue
            die_with_parent()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            content, descriptors, *_ = socket.recv_fds(connection, 1 << 20, 3)
            child = os.fork()
            if not child:
                die_with_parent()
                connection.detach()
                return {"descriptors": [0, 1, 2], "session": True, "group": -1} | json.loads(content), descriptors
            connection.sendall(f"{child}\n".encode())
            connection.sendall(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n".encode())
            os._exit(0)


def become(request, descriptors):
    """Be as a process that was started so. What started it goes on when the other descriptors are closed."""
    if request["session"]:
        os.setsid()
    if request["group"] >= 0:
        os.setpgid(0, request["group"])
    lowest = 1 + max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    kept = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, lowest) for descriptor in descriptors]
    os.closerange(3, lowest)
    for number, descriptor in zip(request["descriptors"], kept, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ |= request["environment"]
    sys.path[:] = [request["cwd"], *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), *PATH]
    sys.argv = request["arguments"][1:]
    bear_mark(os.environ[MARK])
    if library := os.environ.get("FAULTS_LIBRARY"):  # see tests/faults
        ctypes.CDLL(library).faults_begin(" ".join(sys.argv).encode())
    importlib.invalidate_caches()


def bear_mark(mark):
    """Have the kernel show this mark in the environment that this process was started with (see proc(5))."""
    numbers = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    start, end = int(numbers[47]), int(numbers[48])
    place = ctypes.string_at(start, end - start).index(f"{MARK}=".encode())
    ctypes.memmove(start + place, f"{MARK}={mark}".encode(), len(f"{MARK}={mark}"))


def run_and_leave(module):
    """`python -m module`, but that what was imported is not taken to pieces at the end: it takes seconds."""
    code = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    die_with_parent()
    for name in PACKAGES:
        importlib.import_module(name)
    assert not [name for name in sys.modules if name.split(".")[0] in OURS]
    assert threading.active_count() == 1, threading.enumerate()
    gc.freeze()  # what is shared is not looked at, and so not copied
    os.register_at_fork(after_in_child=forget)
    request = serve(sys.argv[1])
    while request:
        become(*request)
        request = keep_ready()
    run_and_leave(sys.argv[0])
