"""A server that forks the processes of a pipeline run, after it has imported what they need.

Starting Python and importing DVC takes a second; torch and transformers take some four more. A fork takes
milliseconds. The server only imports: it starts no thread, which a fork would lose, and uses no GPU. It dies with the
run, and its processes die with it. Where it does not work, processes are started as usual.
"""

from __future__ import annotations

import gc
import hashlib
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

from pretune import process
from pretune.errors import PretuneError

CODE = ("flows", "tasks", "pretune")
DVC_MODULES = (
    "dvc.cli.parser",
    "dvc.rwlock",
    "dvc.analytics",
    "dvc_data.hashfile.db.local",
    "dvc_data.hashfile.status",
)
DVC_COMMAND = "pretune.lineage.dvc"
LAZY_IMPORTS = {  # by stage: modules that its functions import
    "evaluate": ("sklearn.feature_extraction.text", "sklearn.linear_model", "sklearn.metrics", "captum.attr"),
}
PADDING = " " * 100  # of the server's command line, which its processes overwrite with their own
MAX_REQUEST = 2**20  # bytes; a request holds an environment


class ForkServer:
    """Starts our modules as processes in the folder `root`. stages: those that will run; they are imported."""

    def __init__(self, root: Path, environment: Mapping[str, str], stages: list[str], log: Path) -> None:
        self._root, self._channel = root, None
        if sys.platform != "linux" or not stages:
            return
        self._channel, server_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        log.parent.mkdir(parents=True, exist_ok=True)
        with server_end, log.open("w", encoding="utf-8") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "flows.forkserver", str(server_end.fileno()), *stages, PADDING],
                cwd=root,
                env={**environment, process.PARENT: str(os.getpid())}, pass_fds=[server_end.fileno()], process_group=0,
                stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            )  # fmt: skip

    def start(self, module: str, *arguments: str, environment: Mapping[str, str]) -> Forked | subprocess.Popen[str]:
        """Start `python -m module arguments` in its own process group; `stdout` has standard output and error."""
        if self._channel and (forked := _request_fork(self._channel, [module, *arguments], environment)):
            return forked
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments], cwd=self._root,
            env={**environment, process.PARENT: str(os.getpid())}, process_group=0,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, encoding="utf-8", errors="replace",
        )  # fmt: skip

    def close(self) -> None:
        """End the server and the processes that it has forked."""
        if self._channel:
            self._channel.close()
            self._process.kill()
            self._process.wait()


class Forked:
    """A process that the server has forked, with the interface of subprocess.Popen."""

    def __init__(self, pid: int, output: int, status: IO[str]) -> None:
        self.pid, self._status = pid, status
        self.stdout = os.fdopen(output, encoding="utf-8", errors="replace")
        self.returncode: int | None = None
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        with self._status as status:  # empty if the server was killed, and with it its processes
            self.returncode = int(status.readline() or -signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit code, which is negative for a signal. Raises subprocess.TimeoutExpired."""
        self._watcher.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return self.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stdout.close()
        self.wait()


def _request_fork(channel: socket.socket, command: list[str], environment: Mapping[str, str]) -> Forked | None:
    """Have the server fork; None if it does not."""
    request = json.dumps({"command": command, "environment": dict(environment)}).encode()
    (output, output_end), (status_fd, status_end) = os.pipe(), os.pipe()
    with suppress(OSError):  # the server has ended, or the environment is larger than a message may be
        socket.send_fds(channel, [request], [output_end, status_end])
    os.close(output_end)
    os.close(status_end)
    status = os.fdopen(status_fd, encoding="ascii")
    if pid := status.readline():
        return Forked(int(pid), output, status)
    status.close()
    os.close(output)
    return None


def _serve(channel: socket.socket, stages: list[str]) -> dict[str, Any]:
    """Fork for each request; returns in the forked processes only, with the request."""
    to_import = deque([f"tasks.{name}" for name in stages])
    to_import += [module for name in stages for module in LAZY_IMPORTS.get(name, ())]
    running: dict[int, tuple[int, int]] = {}  # pidfd → pid, pipe for the exit code
    with channel, selectors.DefaultSelector() as selector:
        selector.register(channel, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select(0 if to_import else None):
                if key.fd in running:
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    _send_exit_code(*running.pop(key.fd))
                    continue
                content, descriptors, *_ = socket.recv_fds(channel, MAX_REQUEST, 2)
                if not content:  # the run has ended
                    raise SystemExit
                request, (output, status) = json.loads(content), descriptors
                _import(_module_to_import(request["command"], stages))
                if threading.active_count() > 1:  # a lock that a thread holds would never be released in the fork
                    os.close(output)
                    os.close(status)
                    continue
                if not (pid := _fork(output)):
                    for descriptor in (status, *running, *(pipe for _, pipe in running.values())):
                        os.close(descriptor)
                    return dict(request)
                os.close(output)
                os.write(status, f"{pid}\n".encode())
                pidfd = os.pidfd_open(pid)
                running[pidfd] = pid, status
                selector.register(pidfd, selectors.EVENT_READ)
            if to_import:
                _import(to_import.popleft())


def _module_to_import(command: list[str], stages: list[str]) -> str:
    """The module that the process would import longest."""
    if command[0] != DVC_COMMAND:  # a check or predictions: they import what training does
        return "tasks.pretrain"
    return f"tasks.{command[-1]}" if command[-1] in stages else command[0]


def _import(module: str) -> None:
    """Import a module. Errors are left to the process that needs it."""
    with suppress(Exception):
        importlib.import_module(module)


def _fork(output: int) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    gc.freeze()  # the garbage collector would write to, and so copy, every shared page
    if pid := process.fork():
        with suppress(ProcessLookupError):
            os.setpgid(pid, pid)  # also here: the group must exist before the pid is reported
        return pid
    os.setpgid(0, 0)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    return 0


def _send_exit_code(pid: int, pipe: int) -> None:
    _, status = os.waitpid(pid, 0)
    with suppress(BrokenPipeError):
        os.write(pipe, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os.close(pipe)


class WaitingStage:
    """The process of a stage, forked before DVC starts threads and opens files; it waits until DVC starts the stage.

    DVC uses it as a subprocess.Popen.
    """

    def __init__(self, stage: str) -> None:
        self.stage, self.returncode = stage, 0
        inbox, outbox = os.pipe()
        self.pid = process.fork()
        os.close(inbox if self.pid else outbox)
        self._pipe = outbox if self.pid else inbox

    def popen(self, command: list[str], *, cwd: str, env: dict[str, str], **options: Any) -> Any:
        """Let the process run if `command` is that of the stage in dvc.yaml; start any other command as usual."""
        if command[-1] != f"exec python -m tasks {self.stage}":
            return subprocess.Popen(command, cwd=cwd, env=env, **options)
        with suppress(BrokenPipeError), os.fdopen(self._pipe, "w", encoding="utf-8") as pipe:
            json.dump([cwd, env], pipe)
        return self

    def communicate(self) -> None:
        """Wait for the end of the process."""
        _, status = os.waitpid(self.pid, 0)
        self.returncode = os.waitstatus_to_exitcode(status)

    def wait_for_start(self) -> bool:
        """In the process: wait, then enter DVC's folder and environment. Returns False if DVC skips the stage."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        with os.fdopen(self._pipe, encoding="utf-8") as pipe:
            content = pipe.read()
        if content:
            cwd, environment = json.loads(content)
            os.chdir(cwd)
            _become(["tasks", self.stage], environment)
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return bool(content)


def _become(command: list[str], environment: Mapping[str, str]) -> None:
    process.show(["python", "-m", *command])
    os.environ.clear()
    os.environ.update(environment)


class Code:
    """The hashes of our code's files before any of them is imported."""

    def __init__(self, root: Path) -> None:
        self._hashes = {path: _digest(path) for package in CODE for path in (root / package).rglob("*.py")}

    def is_current(self) -> bool:
        """Whether the files that this process has imported are unchanged."""
        modules = [module for name, module in sys.modules.items() if name.partition(".")[0] in CODE]
        imported = {Path(module.__file__) for module in modules if module.__file__}
        return all(_digest(path) == digest for path, digest in self._hashes.items() if path in imported)


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def main(arguments: list[str]) -> int:
    """Run the server, and in each process that it forks, the command of that process."""
    process.die_with_parent()
    os.close(os.pidfd_open(os.getpid()))  # fails, and with it the server, on a kernel without pidfd
    code = Code(Path.cwd())
    from pretune.lineage import dvc, graph
    from tasks import __main__ as tasks

    tasks.settle()
    for module in DVC_MODULES:
        _import(module)
    with suppress(PretuneError):
        _ = graph.Workspace(Path.cwd()).nodes  # imports what DVC needs to read the graph
    descriptor, *stages, _ = arguments
    request = _serve(socket.socket(fileno=int(descriptor)), stages)
    command, *rest = request["command"]
    _become(request["command"], request["environment"])
    if command != DVC_COMMAND:
        return int(importlib.import_module(command).main(rest))
    waiting = WaitingStage(rest[-1])
    if waiting.pid:
        return dvc.main(rest, waiting.popen)
    return tasks.main([waiting.stage], code.is_current) if waiting.wait_for_start() else 0


if __name__ == "__main__":
    process.leave(main(sys.argv[1:]))
