"""Runs a stage in several processes: an engine starts them; this process waits, records and publishes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretune import errors
from pretune.config.params import Params, load
from pretune.errors import PretuneError, TerminatedError, WorkspaceError
from pretune.lineage.graph import Entry, Node, Workspace, stage_key
from pretune.process import stop_signals
from pretune.runtime.engines.job import Job, Task
from pretune.runtime.engines.start import check_stage, start
from pretune.runtime.worker import ORDER
from pretune.tracking import journal

if TYPE_CHECKING:
    from pretune.runtime.progress import Progress
    from pretune.runtime.stage import Stage

NODE_RANK = "PRETUNE_NODE_RANK"
POLL_EVERY = 0.1  # seconds
LOG_TAIL = 30  # lines of the log that are shown after a crash
Message = dict[str, Any]


def is_distributed(node: Node, params: Params) -> bool:
    """Whether a stage runs in other processes: it trains, and params.yaml sets several, or another engine."""
    launch = params.launch
    return trains(node, params) and (launch.engine != "local" or launch.processes * launch.nodes > 1)


def trains(node: Node, params: Params) -> bool:
    """Whether a stage trains: it reads keys of `launch`, and params.yaml does not leave it without work."""
    idle = {
        "scratch": not params.scratch.trains(params.model),
        "label_efficiency": not params.label_efficiency.partial,
    }
    return "launch.processes" in node.params and not idle.get(node.name, False)


def node_rank(params: Params) -> int:
    """The number of this machine; 0 is the one that records and publishes. Raises WorkspaceError for any other."""
    text, machines = os.environ.get(NODE_RANK, "0"), params.launch.nodes
    if not text.isdigit() or int(text) >= machines:
        raise WorkspaceError(
            f"{NODE_RANK} is {text!r}; with launch.nodes {machines} it must be 0 to {machines - 1}",
            f"export {NODE_RANK}=0   (1 on the second machine, and so on)",
        )
    return int(text)


def run_on_first_machine(workers: WorkerGroup, stage: Stage, progress: Progress) -> None:
    """Run `stage` in the processes of the first machine, this one. Records their messages, raises their errors."""

    def handle(message: Message) -> None:
        if message["event"] == "metrics":
            stage.run.metrics(message["values"], message["step"])
        elif message["event"] == "text":
            stage.run.text(message["name"], message["content"])
        elif message["event"] == "progress":
            progress.update(message["done"], message["total"], message["note"])
        elif message["event"] == "validation":
            progress.validated(message["step"], message["metrics"])
        elif message["event"] == "line":
            print(message["text"], file=sys.stderr, flush=True)

    done = workers.run(handle)
    for path in done["written"]:
        stage.out(path)
    for path, examples in done["models"]:
        stage.model(path, examples)


def run_on_other_machine(root: Path, state: Path, name: str) -> None:
    """Run the stage `name` in the processes of this machine, which is not the first, together with the others."""
    workspace, params = Workspace(root), load(root / "params.yaml")
    node = workspace.node(name)
    if not is_distributed(node, params):
        raise WorkspaceError(
            f"{name} runs on the first machine only; {NODE_RANK} says that this is another", f"unset {NODE_RANK}"
        )
    workers = WorkerGroup(root, state, node, workspace.entry(name), params)
    workers.check()
    workers.run(lambda _: None)


class WorkerGroup:
    """The processes that run a stage: those of this machine, or all of them where another engine starts them."""

    def __init__(self, root: Path, state: Path, node: Node, entry: Entry, params: Params) -> None:
        self._name, self._launch, machine = node.name, params.launch, node_rank(params)
        self._key = stage_key(entry)
        self._here = params.launch.engine in {"local", "kubernetes"}  # a pod starts its own
        self._number = params.launch.processes * (1 if self._here else params.launch.nodes)
        name = f"{node.name}-{machine}" if machine else node.name
        self._folder, self._log = state / "launch" / name, state / "logs" / f"{name}.workers.log"
        self._task = Task(
            root, node.name, params.launch, params.threads, self._folder, self._log, machine=machine,
            tell=lambda text: print(text, file=sys.stderr, flush=True),
        )  # fmt: skip
        self._order = {"root": str(root), "node": asdict(node), "entry": entry, "params": params.model_dump()}
        self._offsets: dict[Path, int] = {}  # bytes read of each file of messages
        self._attempt = 0
        self._ends: list[tuple[int, Message]] = []  # (rank, message) of how processes began and ended
        self._logged: set[tuple[str, int]] = set()  # (metric, step)

    def check(self) -> None:
        """Raise WorkspaceError where they cannot be started from here."""
        check_stage(self._task, self._key)

    def run(self, handle: Callable[[Message], None]) -> Message:
        """Start the processes, pass their messages to `handle`, and wait for their end.

        Returns the last message of the first process, with what it wrote. Raises the error of a process; SystemExit
        after a crash.
        """
        shutil.rmtree(self._folder, ignore_errors=True)
        (self._folder / "0").mkdir(parents=True)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log.write_bytes(b"")
        (self._folder / ORDER).write_text(json.dumps(self._order), encoding="utf-8")
        with stop_signals(second_kills=False) as signals:
            job = start(self._task)
            try:
                code = self._follow(job, handle, signals)
            finally:
                job.kill()
        shutil.rmtree(self._folder)
        return self._result(code, signals)

    def _follow(self, job: Job, handle: Callable[[Message], None], signals: list[int]) -> int:
        """The exit code; 1 after a second signal, which waits for nothing."""
        stopped = False
        while True:
            code = job.wait(POLL_EVERY)  # before reading: no message is lost
            for message in self._new_messages():
                if not self._known(message):
                    handle(message)
            if code is not None:
                return code
            if signals and not stopped:
                stopped = True
                job.stop([message["pid"] for _, message in self._ends if message["event"] == "begin"])
            if len(signals) > 1:
                return 1

    def _new_messages(self) -> Iterator[Message]:
        for path in sorted(self._folder.glob("*/*.jsonl"), key=lambda path: (int(path.parent.name), int(path.stem))):
            attempt = int(path.parent.name)
            if attempt > self._attempt:  # how the one before ended, the engine has dealt with
                self._attempt, self._ends = attempt, []
            messages, self._offsets[path] = journal.read(path, self._offsets.get(path, 0))
            for message in messages:
                if message["event"] not in {"metrics", "text", "progress", "validation", "line"}:
                    self._ends.append((int(path.stem), message))
                yield message

    def _known(self, message: Message) -> bool:
        """Whether an earlier attempt has told it: the next one repeats the steps after its checkpoint."""
        if message["event"] != "metrics":
            return False
        told = {(name, message["step"]) for name in message["values"]}
        known = bool(self._attempt) and told <= self._logged
        self._logged |= told
        return known

    def _result(self, code: int, signals: list[int]) -> Message:
        messages = [message for _, message in self._ends]
        done = {rank: message for rank, message in self._ends if message["event"] == "done"}
        errors = [_error(message) for message in messages if message["event"] == "error"]
        for error in errors:
            if not isinstance(error, TerminatedError):  # those are of processes that torchrun stopped because of it
                raise error
        if code == 0 and len(done) == self._number:
            return done[min(done)]
        if signals and signals[0] == signal.SIGINT:
            raise KeyboardInterrupt
        crashed = self._killed() or any(message["event"] == "crash" for message in messages)
        if signals or (errors and not crashed):
            raise errors[0] if errors else TerminatedError("stopped by SIGTERM", "pretune run")
        self._show_crash()
        raise SystemExit(1)

    def _killed(self) -> set[int]:
        """The processes that have begun and did not say how they ended."""
        return {rank for rank, _ in self._ends} - {rank for rank, m in self._ends if m["event"] != "begin"}

    def _show_crash(self) -> None:
        """Print the traceback of the first crash; if a process left none, the end of torchrun's output."""
        crashes = sorted((m["time"], m["text"]) for _, m in self._ends if m["event"] == "crash")
        killed = self._killed()
        with self._log.open("r+", encoding="utf-8", errors="replace") as file:
            report = "\n".join(file.read().splitlines()[-LOG_TAIL:]) + "\n"
            file.writelines(text for _, text in crashes)
        if crashes and not killed:
            report = crashes[0][1]
        print(report, end="", file=sys.stderr)
        for rank in sorted(killed):
            print(f"error: process {rank} was killed (is there enough memory?) or crashed", file=sys.stderr)
        print(f"error: a process of {self._name} failed; its output is in {self._log}", file=sys.stderr)


def _error(message: Message) -> PretuneError:
    """The error that a process has reported."""
    error_class: type[PretuneError] = getattr(errors, message["kind"], PretuneError)
    error = error_class(message["problems"], message["next_step"])
    error.exit_code = message["exit_code"]
    return error
