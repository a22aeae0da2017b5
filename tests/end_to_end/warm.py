"""A process that has imported what commands need, and forks one for each: a tenth of a second instead of two.

`python warm.py SOCKET`. A fork has its own folder, environment and output, and imports our code from its folder, as
`python -m` does: only the packages of others are there already. Prefect is not: it reads its settings when imported.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import threading
import traceback

PACKAGES = (
    "typer", "rich.progress", "rich.tree", "ruamel.yaml", "pydantic", "psutil", "pandas", "sklearn.metrics",
    "dvc.cli.parser", "dvc.repo.index", "dvc.repo.plots", "dvc.repo.metrics", "dvc.repo.params", "dvc.repo.artifacts",
    "dvc.repo.datasets", "dvc.cachemgr", "dvc.data_cloud", "dvc.lock", "dvc.stage.cache", "dvc.utils.strictyaml",
    "dvc_data.hashfile.db.local", "mlflow", "mlflow.store.tracking.sqlalchemy_store", "mlflow.store.db.utils",
    "mlflow.store.model_registry.sqlalchemy_store",
)  # fmt: skip
OURS = ("flows", "tasks", "pretune")


def die_with_parent():
    """Have the kernel end this process when the one that started it ends: nothing outlives the tests."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


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
                return json.loads(content), descriptors
            connection.sendall(f"{child}\n".encode())
            connection.sendall(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n".encode())
            os._exit(0)


def become(request, descriptors):
    """Be as a process that was started so."""
    os.setsid()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ |= request["environment"]
    sys.path[0] = request["cwd"]
    sys.argv = request["arguments"][1:]
    importlib.invalidate_caches()


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
    request, streams = serve(sys.argv[1])
    become(request, streams)
    run_and_leave(sys.argv[0])
