"""A stage in several processes: torchrun starts them, this process waits, records and publishes.

`python -m pretune.runtime.launcher …` is torchrun itself, but for dying with the process that started it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from pretune import errors
from pretune.config.params import Params, load
from pretune.errors import PretuneError, TerminatedError, WorkspaceError
from pretune.lineage.graph import Entry, Node, Workspace
from pretune.process import PARENT, die_with_parent
from pretune.runtime.worker import ORDER, WORKER
from pretune.tracking import journal

if TYPE_CHECKING:
    from pretune.runtime.progress import Progress
    from pretune.runtime.stage import Stage

NODE_RANK = "PRETUNE_NODE_RANK"
POLL = 0.1  # seconds
LOG_TAIL = 30  # lines shown of a crash
Message = dict[str, Any]


def is_distributed(node: Node, params: Params) -> bool:
    """Whether a stage is one for several processes, and several are asked for."""
    return trains(node, params) and params.launch.processes * params.launch.nodes > 1


def trains(node: Node, params: Params) -> bool:
    """Stages that train read how many processes are to do it; `label_efficiency` trains where there are shares."""
    return "launch" in node.params and (node.name != "label_efficiency" or bool(params.label_efficiency.partial))


def node_rank(params: Params) -> int:
    """Which machine this is; 0 is the one that records and publishes."""
    text = os.environ.get(NODE_RANK, "0")
    if not text.isdigit() or int(text) >= params.launch.nodes:
        raise WorkspaceError(
            f"{NODE_RANK} is {text!r}; of launch.nodes {params.launch.nodes} the last is {params.launch.nodes - 1}",
            f"export {NODE_RANK}=0   (1 on the second machine, and so on)",
        )
    return int(text)


def lead(crew: WorkerGroup, stage: Stage, progress: Progress) -> None:
    """Have the processes of this machine, the first, carry out `stage`; record what they say, raise what they raise."""

    def hear(message: Message) -> None:
        if message["event"] == "metrics":
            stage.run.metrics(message["values"], message["step"])
        elif message["event"] == "text":
            stage.run.text(message["name"], message["content"])
        elif message["event"] == "progress":
            progress.update(message["done"], message["total"], message["note"])
        elif message["event"] == "line":
            print(message["text"], file=sys.stderr, flush=True)

    done = crew.work(hear)
    for path in done["written"]:
        stage.out(path)
    for path, examples in done["models"]:
        stage.model(path, examples)


def join(root: Path, state: Path, name: str) -> None:
    """Have the processes of this machine, not the first, carry out the stage with the others."""
    workspace, params = Workspace(root), load(root / "params.yaml")
    node = workspace.node(name)
    if not is_distributed(node, params):
        raise WorkspaceError(
            f"{name} runs on the first machine only; {NODE_RANK} says that this is another", f"unset {NODE_RANK}"
        )
    WorkerGroup(root, state, node, workspace.entry(name), params).work(lambda _: None)


class WorkerGroup:
    """The processes of one machine that carry out a stage."""

    def __init__(self, root: Path, state: Path, node: Node, entry: Entry, params: Params) -> None:
        self._root, self._name, self._launch, self._machine = root, node.name, params.launch, node_rank(params)
        called = f"{node.name}-{self._machine}" if self._machine else node.name
        self._folder, self._log = state / "launch" / called, state / "logs" / f"{called}.workers.log"
        self._threads = params.threads
        self._order = {"root": str(root), "node": asdict(node), "entry": entry, "params": params.model_dump()}
        self._read: dict[Path, int] = {}
        self._said: list[tuple[int, Message]] = []  # by which process

    def work(self, hear: Callable[[Message], None]) -> Message:
        """Start them, pass on what they say, wait for them; return the last message of the first, or raise."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        (self._folder / ORDER).write_text(json.dumps(self._order), encoding="utf-8")
        with _signals() as received, self._log.open("w", encoding="utf-8") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "pretune.runtime.launcher", *self._arguments()],
                cwd=self._root, env=self._environment(),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
            try:
                self._follow(child, hear, received)
            finally:
                child.kill()  # the processes die with it
                child.wait()
        shutil.rmtree(self._folder)
        return self._result(child.returncode, received)

    def _arguments(self) -> list[str]:
        launch = self._launch
        host, _, port = launch.rendezvous.rpartition(":")
        meeting = [f"--nnodes={launch.nodes}", f"--node-rank={self._machine}"]
        meeting += [f"--master-addr={host}", f"--master-port={port}"]
        where = ["--standalone"] if launch.nodes == 1 else meeting
        return [*where, f"--nproc-per-node={launch.processes}", "--module", "tasks", self._name]

    def _environment(self) -> dict[str, str]:
        own = {WORKER: str(self._folder), PARENT: str(os.getpid()), "OMP_NUM_THREADS": str(self._threads)}
        if self._launch.nodes == 1 and sys.platform == "linux":
            own["GLOO_SOCKET_IFNAME"] = "lo"  # whatever this machine is called: nothing leaves it
        return os.environ | own

    def _follow(self, child: subprocess.Popen[bytes], hear: Callable[[Message], None], received: list[int]) -> None:
        told = False
        while True:
            ended = child.poll() is not None  # asked first: what is said until then is heard
            for message in self._news():
                hear(message)
            if ended:
                return
            if received and not told:
                told = True
                self._tell_to_stop(child)
            if len(received) > 1:
                return
            with suppress(subprocess.TimeoutExpired):
                child.wait(POLL)

    def _news(self) -> Iterator[Message]:
        for path in sorted(self._folder.glob("*.jsonl")):
            messages, self._read[path] = journal.read(path, self._read.get(path, 0))
            for message in messages:
                if message["event"] not in {"metrics", "text", "progress", "line"}:
                    self._said.append((int(path.stem), message))
                yield message

    def _tell_to_stop(self, child: subprocess.Popen[bytes]) -> None:
        """Tell the processes: torchrun would kill them after half a minute. Until all are there, nothing is lost."""
        pids = [message["pid"] for _, message in self._said if message["event"] == "begin"]
        if len(pids) < self._launch.processes:
            child.kill()
            return
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def _result(self, code: int, received: list[int]) -> Message:
        said = [message for _, message in self._said]
        done = {rank: message for rank, message in self._said if message["event"] == "done"}
        mistakes = [_error(message) for message in said if message["event"] == "error"]
        for mistake in mistakes:
            if not isinstance(mistake, TerminatedError):  # the others were stopped because of it
                raise mistake
        if code == 0 and len(done) == self._launch.processes:
            return done[min(done)]
        if received and received[0] == signal.SIGINT:
            raise KeyboardInterrupt
        if received or (mistakes and not any(message["event"] == "crash" for message in said)):
            raise mistakes[0] if mistakes else TerminatedError("stopped by SIGTERM", "pretune run")
        self._show_crash()
        raise SystemExit(1)

    def _show_crash(self) -> None:
        """Show what came first; where a process could not say anything itself, what torchrun says about it."""
        crashes = sorted((m["time"], m["text"]) for _, m in self._said if m["event"] == "crash")
        silent = {rank for rank, _ in self._said} - {rank for rank, m in self._said if m["event"] != "begin"}
        with self._log.open("r+", encoding="utf-8", errors="replace") as file:
            shown = "\n".join(file.read().splitlines()[-LOG_TAIL:]) + "\n"
            file.writelines(text for _, text in crashes)
        if crashes and not silent:
            shown = crashes[0][1]
        print(shown, end="", file=sys.stderr)
        for rank in sorted(silent):
            print(f"error: process {rank} was killed (is there enough memory?) or crashed", file=sys.stderr)
        print(f"error: a process of {self._name} failed; all that was printed is in {self._log}", file=sys.stderr)


def _error(message: Message) -> PretuneError:
    """The error that a process has told of."""
    kind: type[PretuneError] = getattr(errors, message["kind"], PretuneError)
    error = kind(message["problems"], message["next_step"])
    error.exit_code = message["exit_code"]
    return error


@contextmanager
def _signals() -> Iterator[list[int]]:
    """SIGTERM and SIGINT, in the order in which they came: the processes are told, and waited for."""
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(arguments: list[str]) -> None:
    """Be torchrun, and have the processes die with this one as it dies with its parent."""
    die_with_parent()
    os.environ[PARENT] = str(os.getpid())
    from torch.distributed.run import main as torchrun

    torchrun(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
