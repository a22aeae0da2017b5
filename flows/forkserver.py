"""Processes of a pipeline run that need not start: forked from one that has imported what they will use.

To start Python and import DVC takes a second, torch and transformers some four more; a fork takes milliseconds.
The server imports and nothing else: it computes nothing, so no thread is lost in a fork, and asks for no GPU.
It dies with the run, and its processes die with it. Where it cannot serve, a process starts as it always could.
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
DVC = ("dvc.cli.parser", "dvc.rwlock", "dvc.analytics", "dvc_data.hashfile.db.local", "dvc_data.hashfile.status")
LATER = {  # by stage: what it imports in functions, and nearly always
    "evaluate": ("sklearn.feature_extraction.text", "sklearn.linear_model", "sklearn.metrics", "captum.attr"),
}
ROOM = " " * 100  # on the server's command line: there its processes write what they are
MOST = 2**20  # bytes of an order, which holds an environment


class ForkServer:
    """Starts our modules as processes in the folder `root`; `stages` are those that will run: they are imported."""

    def __init__(self, root: Path, environment: Mapping[str, str], stages: list[str], log: Path) -> None:
        self._root, self._channel = root, None
        if sys.platform != "linux" or not stages:
            return
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        log.parent.mkdir(parents=True, exist_ok=True)
        with theirs, log.open("w", encoding="utf-8") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "flows.forkserver", str(theirs.fileno()), *stages, ROOM], cwd=root,
                env={**environment, process.PARENT: str(os.getpid())}, pass_fds=[theirs.fileno()], process_group=0,
                stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            )  # fmt: skip

    def start(self, module: str, *arguments: str, environment: Mapping[str, str]) -> Forked | subprocess.Popen[str]:
        """`python -m module arguments`, in a process group of its own; both its outputs are in `stdout`."""
        if self._channel and (forked := _ask(self._channel, [module, *arguments], environment)):
            return forked
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments], cwd=self._root,
            env={**environment, process.PARENT: str(os.getpid())}, process_group=0,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, encoding="utf-8", errors="replace",
        )  # fmt: skip

    def close(self) -> None:
        """End the server, and what it has started."""
        if self._channel:
            self._channel.close()
            self._process.kill()
            self._process.wait()


class Forked:
    """A process that the server has forked, as subprocess.Popen shows one."""

    def __init__(self, pid: int, output: int, told: IO[str]) -> None:
        self.pid, self._told = pid, told
        self.stdout = os.fdopen(output, encoding="utf-8", errors="replace")
        self.returncode: int | None = None
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        with self._told as told:  # nothing is told where the server was killed: its processes were too
            self.returncode = int(told.readline() or -signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, negative for a signal, once there is one; subprocess.TimeoutExpired before."""
        self._watcher.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return self.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stdout.close()
        self.wait()


def _ask(channel: socket.socket, command: list[str], environment: Mapping[str, str]) -> Forked | None:
    """Have the server fork; None where it does not."""
    order = json.dumps({"command": command, "environment": dict(environment)}).encode()
    (output, out), (told, end) = os.pipe(), os.pipe()
    with suppress(OSError):  # the server is gone, or the environment larger than a message may be
        socket.send_fds(channel, [order], [out, end])
    os.close(out)
    os.close(end)
    news = os.fdopen(told, encoding="ascii")
    if pid := news.readline():
        return Forked(int(pid), output, news)
    news.close()
    os.close(output)
    return None


def _serve(channel: socket.socket, stages: list[str]) -> dict[str, Any]:
    """Return in each process that is forked, with its order; in the server itself, never."""
    ahead = deque([*(f"tasks.{name}" for name in stages), *(m for name in stages for m in LATER.get(name, ()))])
    running: dict[int, tuple[int, int]] = {}  # by a handle of the process: its pid, and where to tell its end
    with channel, selectors.DefaultSelector() as selector:
        selector.register(channel, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select(0 if ahead else None):
                if key.fd in running:
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    _tell_end(*running.pop(key.fd))
                    continue
                content, descriptors, *_ = socket.recv_fds(channel, MOST, 2)
                if not content:  # the run has ended
                    raise SystemExit
                order, (out, end) = json.loads(content), descriptors
                _import(_needed(order["command"], stages))
                if threading.active_count() > 1:  # its locks would be held for ever in the fork: no pid, no process
                    os.close(out)
                    os.close(end)
                    continue
                if not (pid := _fork(out)):
                    for descriptor in (end, *running, *(each for _, each in running.values())):
                        os.close(descriptor)
                    return dict(order)
                os.close(out)
                os.write(end, f"{pid}\n".encode())
                handle = os.pidfd_open(pid)
                running[handle] = pid, end
                selector.register(handle, selectors.EVENT_READ)
            if ahead:
                _import(ahead.popleft())


def _needed(command: list[str], stages: list[str]) -> str:
    """The module that takes the process longest to import: it had better be there before the fork."""
    if command[0] == "pretune.check":
        return "tasks.pretrain"
    return f"tasks.{command[-1]}" if command[-1] in stages else command[0]


def _import(module: str) -> None:
    """What cannot be imported is left to the process that needs it, which says why."""
    with suppress(Exception):
        importlib.import_module(module)


def _fork(out: int) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    gc.freeze()  # the collector would write to every page that is shared
    if pid := process.fork():
        with suppress(ProcessLookupError):
            os.setpgid(pid, pid)  # here too: whoever is told the pid may send signals to the group
        return pid
    os.setpgid(0, 0)
    for stream in (1, 2):
        os.dup2(out, stream)
    os.close(out)
    return 0


def _tell_end(pid: int, end: int) -> None:
    _, status = os.waitpid(pid, 0)
    with suppress(BrokenPipeError):
        os.write(end, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os.close(end)


class Waiting:
    """The process of a stage, made before DVC has threads and files open, which waits until DVC wants it.

    To DVC it is subprocess.Popen.
    """

    def __init__(self, stage: str) -> None:
        self.stage, self.returncode = stage, 0
        inbox, outbox = os.pipe()
        self.pid = process.fork()
        os.close(inbox if self.pid else outbox)
        self._pipe = outbox if self.pid else inbox

    def popen(self, command: list[str], *, cwd: str, env: dict[str, str], **options: Any) -> Any:
        """Have it run, if `command` is what dvc.yaml says for a stage; else start what is asked for."""
        if command[-1] != f"exec python -m tasks {self.stage}":
            return subprocess.Popen(command, cwd=cwd, env=env, **options)
        with suppress(BrokenPipeError), os.fdopen(self._pipe, "w", encoding="utf-8") as pipe:
            json.dump([cwd, env], pipe)
        return self

    def communicate(self) -> None:
        """Wait for its end."""
        _, status = os.waitpid(self.pid, 0)
        self.returncode = os.waitstatus_to_exitcode(status)

    def told(self) -> bool:
        """Within the process: wait; whether DVC wants the stage, in the folder and environment that are set then."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        with os.fdopen(self._pipe, encoding="utf-8") as pipe:
            content = pipe.read()
        if content:
            cwd, environment = json.loads(content)
            os.chdir(cwd)
            _be(["tasks", self.stage], environment)
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return bool(content)


def _be(command: list[str], environment: Mapping[str, str]) -> None:
    process.show(["python", "-m", *command])
    os.environ.clear()
    os.environ.update(environment)


class Code:
    """The files of our code as they are before any of them is imported."""

    def __init__(self, root: Path) -> None:
        self._known = {path: _digest(path) for package in CODE for path in (root / package).rglob("*.py")}

    def is_current(self) -> bool:
        """Whether all that this process has imported is what the files hold now."""
        ours = [module for name, module in sys.modules.items() if name.partition(".")[0] in CODE]
        loaded = {Path(module.__file__) for module in ours if module.__file__}
        return all(_digest(path) == known for path, known in self._known.items() if path in loaded)


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def main(arguments: list[str]) -> int:
    """Be the server; and then, in each process that it forks, what that one is for."""
    process.die_with_parent()
    os.close(os.pidfd_open(os.getpid()))  # an error here, where the kernel lacks it, and no server
    code = Code(Path.cwd())
    from pretune.lineage import dvc, graph
    from pretune.objectives import compatibility
    from tasks import __main__ as tasks

    tasks.settle()
    for each in DVC:
        _import(each)
    with suppress(PretuneError):
        _ = graph.Workspace(Path.cwd()).nodes  # imports what DVC takes to read the graph
    descriptor, *stages, _ = arguments
    order = _serve(socket.socket(fileno=int(descriptor)), stages)
    module, *rest = order["command"]
    _be(order["command"], order["environment"])
    if module == "pretune.check":
        return compatibility.main(rest)
    waiting = Waiting(rest[-1])
    if waiting.pid:
        return dvc.main(rest, waiting.popen)
    return tasks.main([waiting.stage], code.is_current) if waiting.told() else 0


if __name__ == "__main__":
    process.leave(main(sys.argv[1:]))
