"""Run stages of the graph as `dvc repro` subprocesses, under one record: with Prefect or without."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from flows import schedule
from flows.forkserver import Forked, ForkServer
from flows.schedule import Ask, Schedule
from pretune import process
from pretune.config import files, params
from pretune.errors import PretuneError, StageFailedError, TerminatedError
from pretune.lineage import dvc_config, graph, provenance
from pretune.lineage.graph import Node, Workspace
from pretune.objectives import compatibility
from pretune.runtime import launcher, progress
from pretune.runtime.progress import RunDisplay
from pretune.tracking.journal import Run
from pretune.tracking.sender import Sender
from tasks import __main__ as tasks

GRACE = 60.0  # seconds that a stage has to stop by itself: training ends its step and saves it
METRICS = "reports/metrics.json"
Child = Forked | subprocess.Popen[str]
LOG_TAIL = 15  # lines shown of a stage that crashed


@dataclass(frozen=True)
class Outcome:
    """How a stage of a pipeline run ended: ran, restored (from DVC's cache) or skipped (was fresh)."""

    stage: str
    how: str
    seconds: float


class PipelineRun:
    """One pipeline run: a lock, a parent record, and stages that can be run from any thread.

    `root` is where the stages run, `home` the workspace that keeps the records (they differ
    where parameters are overridden).
    """

    def __init__(
        self, root: Path, names: list[str], display: RunDisplay, *, home: Path | None = None, prefect_run: str = ""
    ) -> None:
        self.root, self.home, self.display, self.prefect_run = root, home or root, display, prefect_run
        self.state = graph.state_dir(self.home)
        self.outcomes: dict[str, Outcome] = {}
        self.warning = ""
        self._names = names
        self._stack = ExitStack()
        self._reading = threading.Lock()
        self._running: dict[str, Child] = {}
        self._stopping: PretuneError | KeyboardInterrupt | None = None

    def __enter__(self) -> Self:
        """Check everything that can be checked before work, then open the record."""
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _open(self) -> None:
        self._settings = params.load(self.root / "params.yaml")
        self._stack.enter_context(process.lock(self.state / "locks" / "run.lock", "a pipeline run"))
        dvc_config.drop_torn_lock(self.root)
        workspace = self._fresh = Workspace(self.root)
        self.nodes = {name: workspace.nodes[name] for name in workspace.with_upstream(self._names)}
        workspace.check_inputs(self._names)
        self.plan = {decision.stage: decision for decision in workspace.plan(self._names)}
        self.schedule = self._scheduled()
        stages = [name for name, told in self.plan.items() if told.action == "run" and not self._is_idle(name)]
        log = self.state / "logs" / "forkserver.log"
        self._processes = ForkServer(self.root, self._environment(), stages, log)
        self._stack.callback(self._processes.close)
        if compatibility.STAGES & set(stages):
            compatibility.before_work(self.root, self.state, self._settings, self._start)
        for line in params.advice(self._settings):
            self.display.warn(line)
        self._tags = provenance.tags(self.home) | (
            {"prefect.flow_run_id": self.prefect_run} if self.prefect_run else {}
        )
        self.record = Run(self.state, "pipeline", tags=self._tags | {"pretune.kind": "pipeline"})
        self._sender = Sender(self.home, self.state).start()
        self.record.params(files.flatten(self._settings.model_dump()))
        if self._tags["git.dirty"] == "true":
            self.record.text("changes.patch", provenance.patch(self.home))
        self._children: list[Run] = []
        self._stack.enter_context(self._signals())
        self.display.start(list(self.nodes))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Close the record as the run ended."""
        with self._stack:
            self.stop()
            self.display.close()
            self._fresh.order_lock()
            killed = isinstance(error, KeyboardInterrupt | TerminatedError)
            if kind is None:
                self.record.metrics(self.results())
            self.record.end("FINISHED" if kind is None else "KILLED" if killed else "FAILED")
            # Records of a run in which nothing ran may follow by themselves: nobody waits for them.
            if kind is not None or any(outcome.how != "skipped" for outcome in self.outcomes.values()):
                self.sent()

    def sent(self) -> str:
        """The id of the record, once MLflow has all of the run: for who is about to ask for it."""
        self.warning = self._sender.close([self.record, *self._children])
        return self.record.id

    def stage(self, name: str) -> Outcome:
        """Bring one stage up to date; its upstream must be. Raises StageFailedError."""
        began = time.monotonic()
        if self._is_fresh(name):
            return self._end(name, "skipped", 0.0)
        stage_lock = self.state / "locks" / f"{name}.lock"
        if process.is_locked(stage_lock):  # asked now: DVC removes outputs before it runs a stage
            raise process.held(stage_lock, f"stage {name}")
        self.display.begin(name)
        try:
            if not (self._is_idle(name) and self._brought(name)):
                self._repro(self.nodes[name])
        except PretuneError:
            with suppress(PretuneError):  # DVC removed the former outputs: they are not lost
                Workspace(self.root).checkout([name])
            self.display.finish(name, "failed", time.monotonic() - began)
            raise
        how = "ran" if self._executed(name) else "restored"
        return self._end(name, how, time.monotonic() - began)

    def results(self) -> dict[str, Any]:
        """What the evaluation found (reports/metrics.json), where this run brought it up to date."""
        made = [name for name in self.outcomes if METRICS in self.nodes[name].outs]
        return dict(json.loads((self.root / METRICS).read_text(encoding="utf-8"))) if made else {}

    def stop(self) -> None:
        """End every stage that is running: SIGINT first (DVC passes over it, the stage stops), then SIGKILL."""
        running = list(self._running.values())
        for child in running:
            _signal_group(child, signal.SIGINT)
        deadline = time.monotonic() + GRACE
        for child in running:
            try:
                child.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal_group(child, signal.SIGKILL)

    def _is_fresh(self, name: str) -> bool:
        """Whether nothing is to be done for a stage whose upstream has ended."""
        upstream = [self.outcomes[up].how for up in self.nodes[name].upstream if up in self.outcomes]
        return self.plan[name].action == "skip" and all(how == "skipped" for how in upstream)

    def _is_idle(self, name: str) -> bool:
        """Whether a stage that trains otherwise has nothing to train: `label_efficiency` without shares."""
        return name in compatibility.STAGES and not launcher.trains(self.nodes[name], self._settings)

    def _brought(self, name: str) -> bool:
        """Bring an idle stage up to date within this process, which takes less than to start one; False: DVC has to."""
        workspace, node = Workspace(self.root, wait=True), self.nodes[name]
        entry, now = workspace.entry(name), params.load(self.root / "params.yaml")  # in this order: publish looks again
        action = Workspace(self.root).plan([name])[-1].action
        if action == "restore" or launcher.trains(node, now):
            return False
        if action == "run":
            runs = {"parent": self.record.id, "prefect_run": self.prefect_run}
            try:
                with process.lock(self.state / "locks" / f"{name}.lock", f"stage {name}"):
                    tasks.perform(
                        self.root,
                        self.state,
                        node,
                        entry,
                        params=now,
                        progress=progress.StageProgress(self.display, name),
                        **runs,
                    )
                    workspace.commit(name)
            except PretuneError as error:
                raise _mistake(name, error.as_dict()) from error
        return True

    def _scheduled(self) -> Schedule:
        """In which order stages begin: what they ask for, and what each took when it last ran."""
        gpus = schedule.gpus()
        took = {name: schedule.last_seconds(self.state, name) or schedule.UNKNOWN for name in self.nodes}

        def asks(name: str) -> Ask:
            reached = all(up in self.outcomes for up in self.nodes[name].upstream)
            if not reached or self._is_fresh(name) or self._is_idle(name):
                return Ask(0)
            return schedule.asks(self.nodes[name], self._settings, gpus)

        seconds = {name: took[name] if self.plan[name].action == "run" else 0.0 for name in self.nodes}
        return Schedule(self.nodes, asks, seconds, schedule.cores(), gpus)

    def _end(self, name: str, how: str, seconds: float) -> Outcome:
        if how != "ran":
            self._record_cached(name, self._fresh if how == "skipped" else Workspace(self.root))
        self.outcomes[name] = Outcome(name, how, seconds)
        self.display.finish(name, how, seconds)
        return self.outcomes[name]

    def _record_cached(self, name: str, workspace: Workspace) -> None:
        """A light run for a stage that did not have to run, so that pipeline runs compare in full."""
        with self._reading:  # DVC's objects are not made for several threads
            entry, outputs = workspace.entry(name), workspace.outputs(name)
        graph.remember_code(self.root, entry)
        key = graph.stage_key(entry)
        facts = {"pretune.kind": "stage", "pretune.status": "cached", "pretune.stage": name, "pretune.stage_key": key}
        run = Run(self.state, name, parent=self.record.id, tags=self._tags | facts)
        run.params(files.flatten(entry["params"]))
        for path in self.nodes[name].data:
            run.input(path, entry["deps"][path])
        for path, md5 in outputs.items():
            run.output(path, md5)
        run.copy_of(key)
        run.end("FINISHED")
        self._children.append(run)

    def _executed(self, name: str) -> bool:
        """Whether the stage's own process ran under this pipeline run (DVC may have found it fresh)."""
        path = self.state / "stages" / f"{name}.json"
        return path.is_file() and json.loads(path.read_text(encoding="utf-8"))["parent"] == self.record.id

    def _repro(self, node: Node) -> None:
        log = self.state / "logs" / f"{node.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        timeout = float(node.meta.get("timeout", 86_400))
        if self._stopping:
            raise StageFailedError(f"{node.name}: not started, the run is being stopped")
        command = ["pretune.lineage.dvc", "--wait-for-lock", "repro", "--single-item", node.name]
        gpus = {schedule.DEVICES: ",".join(named)} if (named := self.schedule.gpus(node.name)) else {}
        with self._start(*command, PRETUNE_PARENT_RUN=self.record.id, **gpus) as child:
            self._running[node.name] = child
            if self._stopping:  # meanwhile: a start may take seconds
                _signal_group(child, signal.SIGKILL)
            alarm = threading.Timer(timeout, _signal_group, (child, signal.SIGKILL))
            alarm.start()
            try:
                mistake = self._follow(node.name, child, log)
            finally:
                alarm.cancel()
                self._running.pop(node.name, None)
        if child.returncode:
            raise self._failure(node.name, mistake, log, timed_out=alarm.finished.is_set() and child.returncode == -9)

    def _start(self, module: str, *arguments: str, **more: str) -> Child:
        return self._processes.start(module, *arguments, environment=self._environment() | more)

    def _follow(self, name: str, child: Child, log: Path) -> dict[str, Any] | None:
        """Pass the stage's messages to the display and all else to its log; return the mistake it reported."""
        mistake = None
        assert child.stdout is not None
        with log.open("w", encoding="utf-8") as file:
            for line in child.stdout:
                message = progress.message(line)
                if message is None:
                    file.write(line)
                elif message["event"] == "error":
                    mistake = message
                else:
                    self.display.progress(name, message["done"], message["total"], message["note"])
        return mistake

    def _failure(self, name: str, mistake: dict[str, Any] | None, log: Path, *, timed_out: bool) -> StageFailedError:
        if mistake:
            return _mistake(name, mistake)
        if timed_out:
            return StageFailedError(f"{name}: stopped after its timeout (meta.timeout in dvc.yaml)", "pretune run")
        tail = log.read_text(encoding="utf-8").rstrip().splitlines()[-LOG_TAIL:]
        return StageFailedError(
            [f"{name}: failed; the end of {log}:", *[f"    {line}" for line in tail]], "pretune run"
        )

    def _environment(self) -> dict[str, str]:
        folder = str(Path(sys.executable).parent)
        return os.environ | {
            "PATH": os.pathsep.join([folder, os.environ.get("PATH", "")]),
            "PRETUNE_STATE": str(self.state),
            "PRETUNE_PREFECT_RUN": self.prefect_run,
            progress.PIPE: "1",
            "DVC_NO_ANALYTICS": "1",
        }

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """On Ctrl-C and SIGTERM stop the stages, then let the exception end the run; a second one kills."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, _frame: FrameType | None) -> None:
            for each in before:
                signal.signal(each, signal.SIG_DFL)
            self._stopping = TerminatedError("stopped by SIGTERM", "pretune run   (goes on where it stopped)")
            self.stop()
            raise KeyboardInterrupt if number == signal.SIGINT else self._stopping

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run_plain(run: PipelineRun) -> None:
    """Run the stages in threads. Raises StageFailedError."""

    def submit(name: str, upstream: list[Future[Outcome]]) -> Future[Outcome]:
        return pool.submit(_after, upstream, run, name)

    with ThreadPoolExecutor(len(run.nodes)) as pool:
        futures = schedule.submit_all(run.nodes, run.schedule, submit)
    raise_failures([error for future in futures.values() if (error := future.exception())])


def raise_failures(errors: list[BaseException]) -> None:
    """Raise one error for all stages that failed; those that only waited for them say nothing."""
    failed = [error for error in errors if isinstance(error, PretuneError) and not isinstance(error, NotReachedError)]
    if not failed:
        for error in sorted(errors, key=lambda error: isinstance(error, NotReachedError)):
            raise error  # a defect before those that only waited for it
        return
    merged = StageFailedError([line for error in failed for line in error.problems], failed[0].next_step)
    merged.exit_code = failed[0].exit_code
    raise merged


class NotReachedError(PretuneError):
    """A stage that did not run because one before it failed."""


def _mistake(name: str, mistake: dict[str, Any]) -> StageFailedError:
    """A user's mistake that a stage found: to try again would only repeat it."""
    failed = StageFailedError([f"{name}: {problem}" for problem in mistake["problems"]], mistake["next_step"])
    failed.exit_code, failed.retryable = mistake["exit_code"], False
    return failed


def _after(upstream: list[Future[Outcome]], run: PipelineRun, name: str) -> Outcome:
    if any(future.exception() for future in upstream):
        raise NotReachedError(f"{name}: not reached")
    for attempt in range(int(run.nodes[name].meta.get("retries", 0)) + 1):
        try:
            return run.stage(name)
        except StageFailedError as error:
            if not error.retryable or attempt == int(run.nodes[name].meta.get("retries", 0)):
                raise
    raise AssertionError


def _signal_group(child: Child, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, number)
